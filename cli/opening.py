"""Options that commands share, and the way from them to an open memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from memagent.backends.errors import InputError, NotFoundError, in_a_line
from memagent.cli.rendering.output import say

if TYPE_CHECKING:
    from memagent.agent.home import Home
    from memagent.agent.journal import Journal
    from memagent.agent.memory import Memory
    from memagent.agent.memory.forgetting import OpenBeside, Remaining
    from memagent.agent.models.chat import ChatModel


class Output(StrEnum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"


class ChannelName(StrEnum):
    """How memory reaches the model."""

    AUTO = "auto"
    TEXT = "text"
    MODEL = "model"
    BOTH = "both"


UserOption = Annotated[str, typer.Option("--user", "-u", envvar="MEMAGENT_USER", help="Whose memory it is.")]
BackendOption = Annotated[
    str,
    typer.Option(
        "--backend", "-b", envvar="MEMAGENT_BACKEND", help="Which memory; `memagent backends` lists them."
    ),
]
BackendsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        "-b",
        envvar="MEMAGENT_BACKEND",
        help="Which memory, or all; may be given several times. [default: rag]",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="MEMAGENT_MODEL",
        help="A chat model of `memagent models list`, a path, a hub id, provider:model, or echo. "
        "[default: qwen2.5-coder-0.5b]",
    ),
]
ChannelOption = Annotated[ChannelName, typer.Option(help="How memory reaches the model.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the backend; may be given several times."),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text for people, json for scripts.")]

LARGEST = 2**63 - 1
"""The largest whole number that databases and random generators take."""
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=LARGEST, help="For everything random in a memory.")
]

DEFAULT_USER = "default"
DEFAULT_BACKEND = "rag"


def settings(pairs: list[str] | None) -> dict[str, str]:
    """Read ``key=value`` pairs.

    Raises:
        InputError: a pair has no ``=``.
    """
    found: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair}: expected KEY=VALUE, for instance --set abstain=false.")
        found[key.strip()] = value
    return found


def home() -> Home:
    from memagent.agent.home import Home

    return Home.from_environment()


@cache
def load_model(name: str | None) -> ChatModel:
    """Load a chat model once: for the conversation, and for a memory that works inside it."""
    from memagent.agent.models.catalogue import DEFAULT_MODEL
    from memagent.agent.models.loader import load_chat_model
    from memagent.cli.rendering.progress import bytes_reporter

    return load_chat_model(name or DEFAULT_MODEL, home().models, notify=say, report=bytes_reporter())


def open_memory(
    user: str,
    backend: str,
    pairs: list[str] | None = None,
    *,
    model: str | None = None,
    stored: Mapping[str, str] | None = None,
    **options: object,
) -> Memory:
    """Open a memory with progress bars and notices for a person at a terminal.

    Args:
        model: the chat model's name, for memories that work inside it.
        stored: settings as a stored state names them, instead of ``pairs``.
    """
    from memagent.agent.memory import Memory
    from memagent.agent.models.embedding import load_embedder
    from memagent.agent.models.loader import as_local
    from memagent.cli.rendering.progress import bytes_reporter, track

    where = home()
    return Memory.open(
        where,
        user,
        backend,
        settings(pairs) if stored is None else stored,
        make_embedder=lambda: load_embedder(where.models, notify=say, report=bytes_reporter()),
        make_model=lambda: as_local(load_model(model or os.environ.get("MEMAGENT_MODEL"))),
        notify=say,
        progress=track,
        **options,  # type: ignore[arg-type]
    )


def open_beside(user: str, model: str | None) -> OpenBeside:
    """Return what opens a user's stored memories as they are, so that they can forget."""
    return lambda backend, stored, lock: open_memory(
        user, backend, model=model, stored=stored, lock=lock, strict=True, follow=False
    )


def check_backend(backend: str, pairs: list[str] | None) -> None:
    """Refuse a backend or settings that do not exist, before anything is stored."""
    from memagent.backends import registry

    registry.configure(registry.get(backend), settings(pairs))


def choose_backends(names: list[str] | None, pairs: list[str] | None) -> dict[str, dict[str, str]]:
    """Read ``--backend`` (several, or ``all``) and ``--set``: the settings of each backend, checked.

    With several backends a setting names its own: ``rag.abstain=false``.

    Raises:
        NotFoundError, SettingError, InputError: a name or a setting does not exist or does not fit.
    """
    from memagent.backends import registry

    wanted = list(dict.fromkeys(names or [DEFAULT_BACKEND]))
    for name in wanted:
        if name != "all":
            registry.get(name)
    chosen: dict[str, dict[str, str]] = {
        name: {} for name in (registry.names() if "all" in wanted else wanted)
    }
    for key, value in settings(pairs).items():
        backend, dot, field = key.partition(".")
        if dot and backend in chosen:
            chosen[backend][field] = value
        elif len(chosen) == 1 and not dot:
            next(iter(chosen.values()))[key] = value
        else:
            raise _unclear(key, value, field if dot else key, list(chosen))
    for name, its in chosen.items():
        registry.configure(registry.get(name), its)
    return chosen


def _unclear(key: str, value: str, field: str, chosen: list[str]) -> InputError:
    """What to say of a setting that names none of the chosen backends: how to write it, if one of them has it."""
    from memagent.backends import registry

    able = [name for name in chosen if field in {own.name for own in fields(registry.get(name).Config)}]
    if not able:
        return InputError(f"--set {key}={value}: none of {', '.join(chosen)} has a setting {field!r}.")
    example = f"--set {able[0]}.{field}={value}"
    return InputError(f"--set {key}={value}: say which of the backends is meant, as in {example}.")


def open_journal(user: str, *, read_only: bool = True) -> Journal:
    """Open the journal of a user who has one.

    Args:
        read_only: an older journal is brought up to date all the same, where it can be written.

    Raises:
        NotFoundError: nobody by that name has said anything here.
    """
    from memagent.agent.journal.schema import OutdatedSchemaError
    from memagent.agent.memory import open_journal as open_

    where = home()
    require_user(where, user)
    try:
        return open_(where, user, read_only=read_only)
    except OutdatedSchemaError:
        return open_(where, user)


def say_remaining(remaining: Sequence[Remaining]) -> bool:
    """Tell what of a forgetting could not be done; return whether somebody has to do something about it."""
    for left in remaining:
        where = f"The stored memory of {left.backend}" if left.backend else "The journal's file"
        command = f" Then finish it with: {left.command}" if left.command else ""
        say(f"{where} may still hold what was forgotten. {left.reason}{command}")
    return any(left.command for left in remaining)


def require_user(where: Home, user: str) -> None:
    """Refuse a user without a journal, so that a mistyped name does not look like an empty memory."""
    if where.journal_url is not None or _has_journal(where, user):
        return
    folder = where.user_folder(user)
    known = [name for name in where.users() if _has_journal(where, name)]
    hint = f"The folder {in_a_line(str(folder))} is there, but holds no journal. " if folder.exists() else ""
    raise NotFoundError("user", user, known, f"{hint}`memagent chat --user NAME` begins a new one.")


def _has_journal(where: Home, user: str) -> bool:
    """Say whether a user has a journal, or had one."""
    return where.journal_file(user).exists() or where.mark_file(user).exists()


def decoded(text: str, what: str) -> str:
    """Refuse a command-line argument that was not valid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not valid UTF-8 (byte {error.start}). Nothing was stored.") from error
    return text


def read_stdin() -> str:
    """Read all of standard input as UTF-8.

    Raises:
        InputError: it is not valid UTF-8; says where.
    """
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"Standard input, line {line}: byte {raw[error.start]:#04x} is not valid UTF-8. Nothing was stored; "
            "convert it first, for instance with `iconv -f latin1 -t utf-8`."
        ) from error


def count(number: int, what: str) -> str:
    """Return a number of things in words: ``1 turn``, ``2 turns``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def and_replies(number: int) -> str:
    """What to add where turns are forgotten, for the replies that go with them; empty if there are none."""
    replies = "1 reply" if number == 1 else f"{number:,} replies"
    return f" and {replies} written with it in view" if number else ""
