"""memagent remember, recall, forget, export, backup, accept-loss, import."""

from __future__ import annotations

import mimetypes
import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    ModelOption,
    Output,
    OutputOption,
    SetOption,
    UserOption,
)
from memagent.cli.rendering.output import as_json, confirm, json_file, say, write
from memagent.cli.rendering.phrases import and_replies, quantity, say_remaining

_SQLITE_HEADER = b"SQLite format 3\0"

if TYPE_CHECKING:
    from memagent.agent.journal import Journal, NewAttachment
    from memagent.agent.journal.export import ExportResult
    from memagent.agent.models.hub import Report
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
    output: OutputOption = Output.TEXT,
) -> None:
    """Remember a statement, without asking a model anything.

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
        if journal.unfinished():
            say_remaining(finish(home(), journal, open_beside(user, model))[1])
        turns = journal.extend(
            [NewTurn(session, "user", statement, attachments=attachments) for statement in statements]
        )
    is_read = _update_memory(user, backend, set_, model)
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
        print_recollections(recollections)


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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    set_: SetOption = None,
    model: ModelOption = None,
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
    from memagent.agent.memory.forgetting import replies_that_saw
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
        replies = journal.get(replies_that_saw(journal, [turn.seq for turn in turns])) if turns else []
        if turns and not yes:
            print_turns([*turns, *replies], Console(stderr=True))
            if not confirm(f"Forget {quantity(len(turns), 'turn')}{and_replies(len(replies))} for good?"):
                raise typer.Abort
        forgotten = forget_(home(), journal, [turn.seq for turn in turns], open_beside(user, model))
    if output is Output.JSON:
        remaining = [asdict(item) for item in forgotten.remaining]
        as_json(
            {
                "user": user,
                "turns": forgotten.turns,
                "replies": forgotten.replies,
                "discarded": forgotten.discarded,
                "remaining": remaining,
            }
        )
    elif turns:
        write(f"Forgot {quantity(len(forgotten.turns), 'turn')}{and_replies(len(forgotten.replies))}.")
    elif not forgotten.remaining:
        write("No turn fits. An unfinished earlier forgetting is finished now.")
    if forgotten.discarded:
        say(
            f"Removed the stored state of {', '.join(forgotten.discarded)}; it is rebuilt without them when next used."
        )
    if say_remaining(forgotten.remaining):
        raise typer.Exit(1)


def export(
    file: Annotated[str, typer.Argument(help="Where to write; - is standard output.")],
    user: UserOption = DEFAULT_USER,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Verify an export or a backup, instead of writing one."),
    ] = False,
) -> None:
    """Write all turns of a user to a file of JSON lines, with the digests that verify them.

    Examples:

      memagent export backup.jsonl

      memagent export --verify backup.jsonl
    """
    from memagent.agent.journal.export import export as export_

    if verify:
        _verify(file, user)
        return
    with open_journal(user) as journal:
        if file == "-":
            _say_missing(export_(journal, json_file()))
            return
        target = Path(file)
        if not target.name:
            raise InputError(f"{file!r} names no file to write to.")
        partial = target.with_name(target.name + ".part")
        try:
            with partial.open("w", encoding="utf-8", newline="\n") as out:
                export_result = export_(journal, out)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(target)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise InputError(f"{file} cannot be written: {error.strerror}.") from error
    say(f"Wrote {quantity(export_result.turns, 'turn')} to {file}.")
    _say_missing(export_result)


def backup(
    file: Annotated[Path, typer.Argument(help="Where to write; the file must not exist yet.")],
    user: UserOption = DEFAULT_USER,
) -> None:
    """Copy a user's journal, a SQLite database, also while it is in use: a plain copy of the file would lack turns.

    To restore it while nothing uses the memory: replace the file that this command names, remove the files beside it
    that end in -wal and -shm, and accept the loss of later turns (memagent accept-loss).

    Examples:

      memagent backup journal-2026-11-25.sqlite3

      memagent export --verify journal-2026-11-25.sqlite3
    """
    with open_journal(user) as journal:
        try:
            journal.backup(file)
        except FileExistsError as error:
            raise InputError(f"{file} exists already; give a new name. Nothing was written.") from error
        except OSError as error:
            raise InputError(f"{file} cannot be written: {error.strerror}.") from error
        turns = journal.count()
        source = journal.where
    say(f"Wrote {quantity(turns, 'turn')} of {source} to {file}.")


def accept_loss(
    user: UserOption = DEFAULT_USER,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Continue with a journal that has lost turns, when there is no backup to restore.

    The evidence of later turns, as numbers and digests, is moved to a folder named lost-<time> beside the journal.

    Example:

      memagent accept-loss --user ana
    """
    from memagent.agent.memory.loss import accept_loss as accept
    from memagent.agent.memory.loss import examine_loss

    require_user(home(), user)
    loss = examine_loss(home(), user)
    if loss is None:
        write("No loss was found: the journal holds all turns that its mark and the stored memories record.")
        return
    if loss.journal:
        write(f"The journal cannot be used: {loss.journal}")
    elif loss.reached is not None:
        write(f"The journal reaches turn {loss.reached.seq:,} and forgetting {loss.reached.forgetting:,}.")
    for claim in loss.claims:
        write(
            f"{claim.claimant} recorded turns up to {claim.extent.seq:,} and forgettings up to {claim.extent.forgetting:,}."
        )
    if not yes and not confirm("Continue without the lost turns?"):
        raise typer.Abort
    _, evidence = accept(home(), user)
    write(f"Done. The evidence of the lost turns is in {evidence}.")


def import_(
    file: Annotated[Path, typer.Argument(help="A file that `memagent export` wrote; - is standard input.")],
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    set_: SetOption = None,
    model: ModelOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Add an export to a user's journal. The whole file is verified first; present turns are not added twice.

    Then the memory reads the new turns.

    Examples:

      memagent import backup.jsonl --user ana

      ssh other memagent export - | memagent import -
    """
    from memagent.agent.files import make_private
    from memagent.agent.journal.export import load, open_source, prove
    from memagent.agent.memory import open_journal as open_
    from memagent.agent.memory.forgetting import forget as forget_
    from memagent.cli.rendering.progress import bytes_reporter

    backend_settings(backend, set_)  # a wrong one is refused before anything is stored
    report = bytes_reporter()
    with open_source(file, make_private(home().root)) as (source, size):
        try:
            prove(source, _advance(report, size, "Checking"))
        except InputError as error:
            raise InputError(f"{error} Nothing was imported.") from error
        with open_(home(), user) as journal:
            imported = load(journal, source, _advance(report, size, "Importing"))
            forgotten = forget_(home(), journal, imported.to_forget, open_beside(user, model))
    if imported.added:
        _update_memory(user, backend, set_, model)
    if output is Output.JSON:
        as_json(
            {
                "user": user,
                "added": imported.added,
                "present": imported.present,
                "forgotten": len(imported.to_forget),
            }
        )
        return
    write(f"Imported {quantity(imported.added, 'turn')}; {imported.present} were present already.")
    if imported.forgotten_here:
        say(f"{quantity(imported.forgotten_here, 'turn')} in the file had been forgotten here and stayed so.")
    if imported.to_forget:
        say(
            f"{quantity(len(imported.to_forget), 'turn')} that the file says was forgotten is now forgotten here too."
        )
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


def _update_memory(user: str, backend: str, pairs: list[str] | None, model: str | None) -> bool:
    """Let a memory read the journal's new turns; return whether it could."""
    try:
        open_memory(user, backend, pairs, model=model, wait_seconds=2.0).close()
    except MemagentError as error:
        say(f"{error} The journal has the turns; the memory reads them before its next recall.")
        return False
    return True


def _verify(file: str, user: str) -> None:
    """Verify an export, or a backup of the database."""
    from tempfile import gettempdir

    from memagent.agent.journal import Journal
    from memagent.agent.journal.export import open_source, prove

    with open_source(Path(file), Path(gettempdir())) as (source, _):
        source.file.seek(0)
        if source.file.read(len(_SQLITE_HEADER)) != _SQLITE_HEADER:
            proof = prove(source)
            contents = f"{quantity(proof.turns, 'turn')} and {quantity(proof.forgettings, 'forgetting')}"
            if proof.ended:
                write(f"{file} is complete: {contents}, head {proof.head.hex()}.")
            else:
                write(f"{file} can be read: {contents}. Its format {proof.format} has no digests to verify.")
            return
    with Journal(Path(file), user, read_only=True) as journal:
        faults = journal.audit()
        if faults:
            raise InputError(f"{file} is damaged. {' '.join(faults)}")
        extent = journal.extent()
        contents = (
            f"{quantity(journal.count(), 'turn')} and {quantity(extent.forgetting, 'forgetting')} of {user}"
        )
        write(f"{file} is complete: {contents}, head {extent.head}.")


def _say_missing(export_result: ExportResult) -> None:
    if export_result.missing:
        say(
            f"The journal lacks {quantity(export_result.missing, 'turn')} that were not forgotten; the export holds what is there. "
            "`memagent doctor` says more."
        )
        raise typer.Exit(1)


def _chosen_turns(
    journal: Journal, seqs: list[int] | None, session: str | None, matching: str | None
) -> list[Turn]:
    if sum(choice is not None for choice in (seqs or None, session, matching)) != 1:
        raise typer.BadParameter("give exactly one of --seq, --session and --matching")
    if seqs:
        return journal.get(seqs)
    if session is not None:
        return list(journal.turns(session=journal.session(session).name))
    if not (matching or "").strip():
        raise InputError("--matching is empty: it would match every turn. Nothing was forgotten.")
    return list(journal.matching(matching or ""))


def _advance(report: Report, size: int, label: str) -> Callable[[int], None]:
    """Return a function that adds to the bytes done and reports them in steps of half a percent."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if done * 200 // max(size, 1) != before * 200 // max(size, 1):
            report(done, size, label)

    return advance
