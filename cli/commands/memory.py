"""memagent remember, recall, forget."""

from __future__ import annotations

import mimetypes
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memagent.backends.errors import InputError, MemagentError
from memagent.cli import completion
from memagent.cli.inputs import read_stdin, require_utf8
from memagent.cli.opening import backend_settings, home, open_beside, open_journal, open_memory, require_user
from memagent.cli.options import (
    DEFAULT_BACKEND,
    DEFAULT_USER,
    MAX_INTEGER,
    BackendOption,
    EmbedderOption,
    ModelOption,
    Output,
    OutputOption,
    SetOption,
    UserOption,
    YesOption,
)
from memagent.cli.rendering.output import as_json, confirm, say, write
from memagent.cli.rendering.phrases import and_replies, quantity, say_discarded, say_remaining

if TYPE_CHECKING:
    from memagent.agent.journal import Journal, NewAttachment
    from memagent.agent.memory.forgetting import Forgotten
    from memagent.backends.records import Turn


def remember(
    text: Annotated[
        str, typer.Argument(help="What to remember; - reads one statement per line from standard input.")
    ],
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    session: Annotated[
        str,
        typer.Option(
            "--session", "-s", help="The session it is filed under.", autocompletion=completion.sessions
        ),
    ] = "notes",
    attach: Annotated[
        list[Path] | None,
        typer.Option("--attach", help="A file to keep with the statement; may be given several times."),
    ] = None,
    set_: SetOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Store a statement in the journal, and let the memory read it.

    No chat model answers; the models that the memory needs may be fetched.

    Examples:

      memagent remember "My dog is called Biscuit."

      memagent remember "The whiteboard after the meeting." --attach board.png

      memagent remember - --session diary < diary.txt
    """
    from memagent.agent.journal.records import NewTurn, check_attachments
    from memagent.agent.memory import open_journal as open_
    from memagent.agent.memory.forgetting import finish

    lines = read_stdin().splitlines() if text == "-" else [require_utf8(text, "The statement")]
    statements = [line.strip() for line in lines if line.strip()]
    if not statements:
        raise InputError("There is nothing to remember: the text is empty.")
    if attach and len(statements) > 1:
        raise InputError(
            f"--attach belongs to one statement; standard input has {len(statements)}. Nothing was stored."
        )
    backend_settings(backend, set_)  # a wrong one is refused before anything is stored
    attachments = tuple(_attachment(file) for file in attach or [])
    check_attachments(attachments)
    with open_(home(), user) as journal:
        if (
            journal.unfinished()
        ):  # rewrites the journal's file and stored states without what was forgotten; may fetch models
            say_remaining(finish(home(), journal, open_beside(user, model))[1])
        turns = journal.extend(
            [NewTurn(session, "user", statement, attachments=attachments) for statement in statements]
        )
    is_read = update_memory(user, backend, set_, model)
    if output is Output.JSON:
        as_json({"user": user, "session": session, "seqs": [turn.seq for turn in turns], "taken": is_read})
    elif len(turns) == 1:
        write(f"Remembered as turn {turns[0].seq}.")
    else:
        write(f"Remembered {len(turns)} statements as turns {turns[0].seq} to {turns[-1].seq}.")


def recall(
    query: Annotated[str, typer.Argument(help="The question or text to recall for.")],
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    limit: Annotated[
        int, typer.Option("--limit", "-k", min=1, max=MAX_INTEGER, help="Most recollections to return.")
    ] = 5,
    set_: SetOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what the memory recalls for a question or text; nothing if nothing is relevant.

    Examples:

      memagent recall "What is my dog called?"

      memagent recall Porto --limit 10 --set abstain=false --output json
    """
    from memagent.agent.fields import recollection_fields
    from memagent.cli.rendering.text import print_recollections

    require_user(home(), user)
    with open_memory(user, backend, set_, model=model, read_only=True) as memory:
        recollections = memory.recall(require_utf8(query, "The query"), limit=limit)
    if output is Output.JSON:
        as_json([recollection_fields(item) for item in recollections])
    else:
        print_recollections(recollections, query)


def forget(
    seq: Annotated[
        list[int] | None,
        typer.Option("--seq", min=1, max=MAX_INTEGER, help="A turn's number; may be given several times."),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option("--session", "-s", help="A whole session.", autocompletion=completion.sessions),
    ] = None,
    matching: Annotated[
        str | None, typer.Option("--matching", help="All turns that hold this text, in any case.")
    ] = None,
    yes: YesOption = False,
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    set_: SetOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Forget turns for good: journal, every memory, every file. Replies that may repeat them go too.

    Given again after an interruption, it finishes what that left. Exit code 1 if something still holds the turns and
    needs you; a memory that another process uses forgets at that process's next call.

    Examples:

      memagent forget --seq 12

      memagent forget --matching "old address" --yes
    """
    from memagent.agent.memory.forgetting import forget as forget_
    from memagent.cli.rendering.console import Console
    from memagent.cli.rendering.text import print_turns

    backend_settings(backend, set_)  # a wrong one is refused before anything is stored
    with open_journal(user, read_only=False) as journal:
        turns = _chosen_turns(journal, seq, session, matching)
        if not turns and not journal.unfinished():
            raise InputError(
                "No turn fits: nothing was forgotten. "
                f"`memagent sessions show NAME --user {shlex.quote(user)}` lists turns with their numbers."
            )
        replies = journal.get(journal.replies_that_saw([turn.seq for turn in turns]))
        if turns and not yes:
            print_turns([*turns, *replies], Console(stderr=True))
            if not confirm(f"Forget {quantity(len(turns), 'turn')}{and_replies(len(replies))} for good?"):
                raise typer.Abort
        forgotten = forget_(home(), journal, [turn.seq for turn in turns], open_beside(user, model))
    if output is Output.JSON:
        as_json({"user": user, "turns": forgotten.turns, **forgotten_fields(forgotten)})
    elif turns:
        write(f"Forgot {quantity(len(forgotten.turns), 'turn')}{and_replies(len(forgotten.replies))}.")
    elif not forgotten.remaining:
        write("No turn fits. An unfinished earlier forgetting is finished now.")
    say_discarded(forgotten.discarded)
    if say_remaining(forgotten.remaining):
        raise typer.Exit(1)


def _attachment(file: Path) -> NewAttachment:
    """Read a file to attach, no further than the largest attachment goes; its media type follows from its name."""
    from memagent.agent.journal.records import MAX_ATTACHMENT_BYTES, NewAttachment

    media_type, encoding = mimetypes.guess_type(file.name)
    if media_type is None or encoding is not None:  # encoding: compressed, as in notes.txt.gz
        media_type = "application/octet-stream"
    try:
        with file.open("rb") as source:
            content = source.read(MAX_ATTACHMENT_BYTES + 1)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}. Nothing was stored.") from error
    if not content:
        raise InputError(f"{file} is empty; there is nothing to attach. Nothing was stored.")
    if len(content) > MAX_ATTACHMENT_BYTES:
        raise InputError(
            f"{file} has more than {MAX_ATTACHMENT_BYTES:,} bytes, the largest attachment. Nothing was stored."
        )
    return NewAttachment(media_type.lower(), content)


def update_memory(user: str, backend: str, pairs: list[str] | None, model: str | None) -> bool:
    """Let a memory read the journal's new turns; return whether it could.

    Args:
        user: whose journal.
        backend: the memory's name.
        pairs: its settings, as after ``--set``.
        model: as after ``--model``; None: as the settings say.
    """
    try:
        open_memory(user, backend, pairs, model=model, wait_seconds=2.0).close()
    except MemagentError as error:
        say(f"{error} The journal has the turns; the memory reads them before its next recall.")
        return False
    return True


def forgotten_fields(forgotten: Forgotten) -> dict[str, Any]:
    """Return what a forgetting did beyond the turns that were named, as a dictionary that JSON can represent."""
    return {
        "replies": forgotten.replies,
        "discarded": forgotten.discarded,
        "remaining": [asdict(item) for item in forgotten.remaining],
    }


def _chosen_turns(
    journal: Journal, seqs: list[int] | None, session: str | None, matching: str | None
) -> list[Turn]:
    """Return the turns of the journal that the one given option names.

    Raises:
        typer.BadParameter: not exactly one option is given.
        NotFoundError, InputError: there is no such session, or the text is empty.
    """
    if sum(choice is not None for choice in (seqs or None, session, matching)) != 1:
        raise typer.BadParameter("give exactly one of --seq, --session and --matching")
    if seqs:
        return journal.get(seqs)
    if session is not None:
        return list(journal.turns(session=journal.session(session).name))
    if not (matching or "").strip():
        raise InputError("--matching is empty: it would match every turn. Nothing was forgotten.")
    return list(journal.matching(matching or ""))
