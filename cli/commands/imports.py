"""memagent import: exports of memagent and of other programs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memagent.backends.errors import InputError
from memagent.cli.commands.memory import update_memory
from memagent.cli.opening import backend_settings, home, open_beside
from memagent.cli.options import (
    DEFAULT_BACKEND,
    DEFAULT_USER,
    BackendOption,
    EmbedderOption,
    ModelOption,
    Output,
    OutputOption,
    SetOption,
    UserOption,
)
from memagent.cli.rendering.output import as_json, say, write
from memagent.cli.rendering.phrases import quantity, say_remaining

if TYPE_CHECKING:
    from memagent.agent.journal.chat_exports import Summary
    from memagent.agent.journal.export import ImportResult
    from memagent.agent.journal.proof import Source
    from memagent.agent.models.hub import Report


class FormatName(StrEnum):
    """Another program's format."""

    CHATGPT = "chatgpt"
    CLAUDE = "claude"
    OPENAI_MESSAGES = "openai-messages"
    LANGCHAIN = "langchain"
    MEM0 = "mem0"


class RoleName(StrEnum):
    """Who says a message."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


_UNTITLED = (FormatName.OPENAI_MESSAGES, FormatName.LANGCHAIN)


def import_(
    file: Annotated[Path, typer.Argument(help="The file; - is standard input.")],
    from_: Annotated[
        FormatName | None,
        typer.Option(
            "--from", help="The program whose export it is. [default: memagent]", show_default=False
        ),
    ] = None,
    role: Annotated[
        list[RoleName] | None,
        typer.Option(
            "--role",
            help="With --from: import messages of this role; may be given several times. [default: user, assistant]",
            show_default=False,
        ),
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option("--owner", help="With --from: whose part of an export that has several people's."),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            "-s",
            help="With openai-messages and langchain: the session's name. [default: the file's]",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Read and check the file, say what it holds, and import nothing."),
    ] = False,
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    set_: SetOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Add an export of memagent, or with --from of another program, to a user's journal. Then the memory reads the new turns.

    The whole file is checked first; present turns are not added twice. Turns that an export of memagent records as
    forgotten are forgotten here too. Of another program's conversations, the current branches are imported.

    Examples:

      memagent import backup.jsonl --user ana

      memagent import --from chatgpt conversations.json

      ssh other memagent export - | memagent import -
    """
    backend_settings(backend, set_)  # a wrong one is refused before anything is stored
    if from_ is None and (role or owner is not None or session is not None):
        raise typer.BadParameter("--role, --owner and --session need --from")
    if session is not None and from_ not in _UNTITLED:
        raise typer.BadParameter(
            f"the conversations of {from_} have titles of their own, which name the sessions"
        )
    from memagent.agent.files import create_private
    from memagent.agent.journal.export import open_source

    with open_source(file, create_private(home().root)) as (source, size):
        if from_ is None:
            imported, remaining = _import_own(source, size, user, model, output, dry_run=dry_run)
        else:
            title = session or (file.stem if str(file) != "-" else "imported")
            roles = tuple(map(str, role or (RoleName.USER, RoleName.ASSISTANT)))
            imported = _import_foreign(
                source, size, from_, roles, owner, title, user, output, dry_run=dry_run
            )
            remaining = False
    if imported:
        update_memory(user, backend, set_, model)
    if remaining:
        raise typer.Exit(1)


def _import_own(
    source: Source, size: int, user: str, model: str | None, output: Output, *, dry_run: bool
) -> tuple[int, bool]:
    """Import an export of memagent, and print what was done.

    Returns:
        The number of new turns, and whether something that the file says was forgotten remains to be removed.

    Raises:
        InputError: the file is not an export of memagent, or is damaged; nothing was imported.
    """
    from memagent.agent.journal.chat_exports import recognize
    from memagent.agent.journal.export import load, prove
    from memagent.agent.memory import open_journal as open_
    from memagent.agent.memory.forgetting import forget
    from memagent.cli.rendering.progress import bytes_reporter

    report = bytes_reporter()
    try:
        proof = prove(source, _advance(report, size, "Checking"))
    except InputError as error:
        other = recognize(source)
        if other is None:
            raise InputError(f"{error} Nothing was imported.") from error
        raise InputError(
            f"{source.name} is not an export of memagent. It looks like {other.label}: "
            f"memagent import --from {other.name} {shlex.quote(source.name)}"
        ) from error
    if dry_run:
        if output is Output.JSON:
            as_json({"user": user, "turns": proof.turns, "forgettings": proof.forgettings})
        else:
            contents = f"{quantity(proof.turns, 'turn')} and {quantity(proof.forgettings, 'forgetting')}"
            write(f"{source.name} holds {contents}. Nothing was imported.")
        return 0, False
    with open_(home(), user) as journal:
        imported = load(journal, source, _advance(report, size, "Importing"))
        forgotten = forget(home(), journal, imported.to_forget, open_beside(user, model))
    if output is Output.JSON:
        as_json(_fields(user, imported))
    else:
        write(f"Imported {quantity(imported.added, 'turn')}; {imported.present} were present already.")
        _say_forgotten(imported)
    return imported.added, say_remaining(forgotten.remaining)


def _import_foreign(
    source: Source,
    size: int,
    from_: FormatName,
    roles: tuple[str, ...],
    owner: str | None,
    title: str,
    user: str,
    output: Output,
    *,
    dry_run: bool,
) -> int:
    """Import another program's export, print what was done, and return the number of new turns.

    Raises:
        InputError: the file is not such an export; nothing was imported.
    """
    from memagent.agent.journal.chat_exports import FORMATS, Options, convert
    from memagent.agent.journal.export import load
    from memagent.agent.journal.records import check_name
    from memagent.agent.memory import open_journal as open_
    from memagent.cli.rendering.progress import bytes_reporter

    check_name("user name", user)
    report = bytes_reporter()
    with ExitStack() as stack:
        try:
            converted = stack.enter_context(
                convert(
                    source,
                    FORMATS[from_],
                    home().root,
                    Options(roles, owner, title),
                    _advance(report, size, "Checking"),
                )
            )
        except InputError as error:
            raise InputError(f"{error} Nothing was imported.") from error
        imported = None
        if not dry_run:
            journal = stack.enter_context(open_(home(), user))
            own, own_size = stack.enter_context(converted.export(journal))
            imported = load(journal, own, _advance(report, own_size, "Importing"))
    if output is Output.JSON:
        done = {"user": user} if imported is None else _fields(user, imported)
        as_json({**done, "from": str(from_), **_summary_fields(converted.summary)})
    else:
        _print_foreign(source.name, imported, converted.summary)
    return imported.added if imported is not None else 0


def _print_foreign(name: str, imported: ImportResult | None, summary: Summary) -> None:
    """Print what was imported of another program's export, and what was left out.

    Args:
        name: of the file.
        imported: None: nothing, because the file was only checked.
        summary: what the file holds.
    """
    conversations = quantity(summary.conversations, "conversation")
    if imported is None:
        messages = quantity(summary.messages, "message")
        write(f"{name} holds {messages} of {conversations} to import. Nothing was imported.")
    else:
        added = quantity(imported.added, "turn")
        write(f"Imported {added} of {conversations}; {imported.present} were present already.")
        _say_forgotten(imported)
    if summary.left_out:
        parts = (f"{count:,} {reason}" for reason, count in summary.left_out.most_common())
        say(f"Left out: messages {', '.join(parts)}.")
    if summary.repaired:
        say(f"Characters that cannot be stored were replaced in {quantity(summary.repaired, 'message')}.")


def _fields(user: str, imported: ImportResult) -> dict[str, Any]:
    """Return what an import did, as a dictionary that JSON can represent."""
    return {
        "user": user,
        "added": imported.added,
        "present": imported.present,
        "forgotten": len(imported.to_forget),
    }


def _summary_fields(summary: Summary) -> dict[str, Any]:
    """Return what an export of another program holds, as a dictionary that JSON can represent."""
    return {
        "conversations": summary.conversations,
        "messages": summary.messages,
        "left_out": dict(summary.left_out),
        "repaired": summary.repaired,
        "people": sorted(summary.people),
    }


def _say_forgotten(imported: ImportResult) -> None:
    """Say what was left out or forgotten because one of both sides had forgotten it."""
    if imported.forgotten_here:
        say(f"{quantity(imported.forgotten_here, 'turn')} in the file had been forgotten here and stayed so.")
    if imported.to_forget:
        say(
            f"{quantity(len(imported.to_forget), 'turn')} that the file says was forgotten is now forgotten here too."
        )


def _advance(report: Report, size: int, label: str) -> Callable[[int], None]:
    """Return a function that adds to the bytes done and reports them in steps of half a percent."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if done * 200 // max(size, 1) != before * 200 // max(size, 1):
            report(done, size, label)

    return advance
