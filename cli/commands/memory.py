"""remember, recall, forget, export, import."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memagent.backends.errors import InputError, MemagentError
from memagent.cli.opening import (
    DEFAULT_BACKEND,
    DEFAULT_USER,
    LARGEST,
    BackendOption,
    ModelOption,
    Output,
    OutputOption,
    SetOption,
    UserOption,
    and_replies,
    check_backend,
    count,
    decoded,
    home,
    open_beside,
    open_journal,
    open_memory,
    read_stdin,
    require_user,
    say_remaining,
)
from memagent.cli.rendering.output import as_json, confirm, json_file, say, write

_SQLITE = b"SQLite format 3\0"

if TYPE_CHECKING:
    from memagent.agent.journal import Journal
    from memagent.agent.journal.export import Exported
    from memagent.backends.records import Turn


def remember(
    text: Annotated[
        str, typer.Argument(help="What to remember; - reads one statement per line from standard input.")
    ],
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    session: Annotated[str, typer.Option("--session", "-s", help="The session it is filed under.")] = "notes",
    set_: SetOption = None,
    model: ModelOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Remember a statement, without asking a model anything.

    Examples:

      memagent remember "My dog is called Biscuit."

      memagent remember - --session diary < diary.txt
    """
    from memagent.agent.journal.records import NewTurn
    from memagent.agent.memory import open_journal as open_
    from memagent.agent.memory.forgetting import finish

    lines = read_stdin().splitlines() if text == "-" else [decoded(text, "The statement")]
    statements = [line.strip() for line in lines if line.strip()]
    if not statements:
        raise InputError("There is nothing to remember: the text is empty.")
    check_backend(backend, set_)
    with open_(home(), user) as journal:
        say_remaining(finish(home(), journal, open_beside(user, model))[1])
        turns = journal.extend([NewTurn(session, "user", statement) for statement in statements])
    taken = _let_read(user, backend, set_, model)
    if output is Output.JSON:
        as_json({"user": user, "session": session, "seqs": [turn.seq for turn in turns], "taken": taken})
    elif len(turns) == 1:
        write(f"Remembered as turn {turns[0].seq}.")
    else:
        write(f"Remembered {len(turns)} statements as turns {turns[0].seq} to {turns[-1].seq}.")


def recall(
    query: Annotated[str, typer.Argument(help="What to bring to mind.")],
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    limit: Annotated[
        int, typer.Option("--limit", "-k", min=1, max=LARGEST, help="Most recollections to return.")
    ] = 5,
    set_: SetOption = None,
    model: ModelOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what memory brings to mind for a text; nothing, if nothing is relevant.

    Examples:

      memagent recall "What is my dog called?"

      memagent recall Porto --limit 10 --set abstain=false --output json
    """
    from memagent.agent.fields import recollection_fields
    from memagent.cli.rendering.text import print_recollections

    require_user(home(), user)
    with open_memory(user, backend, set_, model=model, read_only=True) as memory:
        found = memory.recall(decoded(query, "The query"), limit=limit)
    if output is Output.JSON:
        as_json([recollection_fields(item) for item in found])
    else:
        print_recollections(found)


def forget(
    seq: Annotated[
        list[int] | None,
        typer.Option("--seq", min=1, max=LARGEST, help="A turn's number; may be given several times."),
    ] = None,
    session: Annotated[str | None, typer.Option("--session", "-s", help="A whole session.")] = None,
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

    check_backend(backend, set_)
    with open_journal(user, read_only=False) as journal:
        turns = _chosen(journal, seq, session, matching)
        if not turns and not journal.unfinished():
            raise InputError(
                "No turn fits: nothing was forgotten. "
                f"`memagent sessions show NAME --user {shlex.quote(user)}` lists turns with their numbers."
            )
        replies = journal.get(replies_that_saw(journal, [turn.seq for turn in turns])) if turns else []
        if turns and not yes:
            print_turns([*turns, *replies], Console(stderr=True))
            if not confirm(f"Forget {count(len(turns), 'turn')}{and_replies(len(replies))} for good?"):
                raise typer.Abort
        done = forget_(home(), journal, [turn.seq for turn in turns], open_beside(user, model))
    if output is Output.JSON:
        remaining = [asdict(left) for left in done.remaining]
        as_json(
            {
                "user": user,
                "turns": done.turns,
                "replies": done.replies,
                "discarded": done.discarded,
                "remaining": remaining,
            }
        )
    elif turns:
        write(f"Forgot {count(len(done.turns), 'turn')}{and_replies(len(done.replies))}.")
    elif not done.remaining:
        write("No turn fits, but an earlier forgetting was unfinished: it is finished now.")
    if done.discarded:
        say(
            f"Removed the stored state of {', '.join(done.discarded)}; it is rebuilt without them when next used."
        )
    if say_remaining(done.remaining):
        raise typer.Exit(1)


def export(
    file: Annotated[str, typer.Argument(help="Where to write; - is standard output.")],
    user: UserOption = DEFAULT_USER,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Prove an export that was written before, instead of writing one."),
    ] = False,
) -> None:
    """Write everything a user said and was told to a file of JSON lines, with the digests that prove it.

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
        fresh = target.with_name(target.name + ".part")
        try:
            with fresh.open("w", encoding="utf-8", newline="\n") as out:
                written = export_(journal, out)
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(target)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            raise InputError(f"{file} cannot be written: {error.strerror}.") from error
    say(f"Wrote {count(written.turns, 'turn')} to {file}.")
    _say_missing(written)


def backup(
    file: Annotated[Path, typer.Argument(help="Where to write; the file must not exist yet.")],
    user: UserOption = DEFAULT_USER,
) -> None:
    """Copy a user's journal, a SQLite database, while it may be in use: a plain copy of the file would lack turns.

    To go back to it while nothing uses the memory: put it in the place of the file that this command names, remove the
    files that end in -wal and -shm beside it, and accept the loss of what came after it (memagent accept-loss).

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
        written = journal.count()
        where = journal.where
    say(f"Wrote {count(written, 'turn')} of {where} to {file}.")


def accept_loss(
    user: UserOption = DEFAULT_USER,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Go on with a journal that has lost turns, when there is no backup to put in its place.

    What knew of more is set aside first, as numbers and digests, in a folder named lost-<time> beside the journal.
    """
    from memagent.agent.memory.loss import accept_loss as accept
    from memagent.agent.memory.loss import examine_loss

    require_user(home(), user)
    loss = examine_loss(home(), user)
    if loss is None:
        write(
            "Nothing here speaks for a loss: the journal holds all that its mark and the stored memories know of."
        )
        return
    if loss.journal:
        write(f"The journal cannot be used: {loss.journal}")
    elif loss.reached is not None:
        write(f"The journal reaches turn {loss.reached.seq:,} and forgetting {loss.reached.forgetting:,}.")
    for claim in loss.claims:
        write(
            f"{claim.claimant} knew of turns up to {claim.extent.seq:,} and forgettings up to {claim.extent.forgetting:,}."
        )
    if not yes and not confirm("Go on without what is lost?"):
        raise typer.Abort
    _, aside = accept(home(), user)
    write(f"Going on. What was known of the lost turns is in {aside}.")


def import_(
    file: Annotated[Path, typer.Argument(help="A file that `memagent export` wrote; - is standard input.")],
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    set_: SetOption = None,
    model: ModelOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Add an export to a user's journal. The whole file is proved first; turns already here are not added twice.

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

    check_backend(backend, set_)
    report = bytes_reporter()
    with open_source(file, make_private(home().root)) as (source, size):
        try:
            prove(source, _advance(report, size, "Checking"))
        except InputError as error:
            raise InputError(f"{error} Nothing was imported.") from error
        with open_(home(), user) as journal:
            done = load(journal, source, _advance(report, size, "Importing"))
            forgotten = forget_(home(), journal, done.to_forget, open_beside(user, model))
    if done.added:
        _let_read(user, backend, set_, model)
    if output is Output.JSON:
        as_json(
            {"user": user, "added": done.added, "present": done.present, "forgotten": len(done.to_forget)}
        )
        return
    write(f"Imported {count(done.added, 'turn')}; {done.present} were here already.")
    if done.forgotten_here:
        say(f"{count(done.forgotten_here, 'turn')} in the file had been forgotten here and stayed so.")
    if done.to_forget:
        say(
            f"{count(len(done.to_forget), 'turn')} that the file says was forgotten is now forgotten here too."
        )
    if say_remaining(forgotten.remaining):
        raise typer.Exit(1)


def _let_read(user: str, backend: str, pairs: list[str] | None, model: str | None) -> bool:
    """Let a memory take in what the journal has got; False if it could not."""
    try:
        open_memory(user, backend, pairs, model=model, wait_seconds=2.0).close()
    except MemagentError as error:
        say(f"{error} The journal has the turns; the memory takes them in before it next recalls.")
        return False
    return True


def _verify(file: str, user: str) -> None:
    """Prove an export, or a backup of the database."""
    from tempfile import gettempdir

    from memagent.agent.journal import Journal
    from memagent.agent.journal.export import open_source, prove

    with open_source(Path(file), Path(gettempdir())) as (source, _):
        source.file.seek(0)
        if source.file.read(len(_SQLITE)) != _SQLITE:
            proof = prove(source)
            what = f"{count(proof.turns, 'turn')} and {count(proof.forgettings, 'forgetting')}"
            if proof.ended:
                write(f"{file} is whole: {what}, head {proof.head.hex()}.")
            else:
                write(
                    f"{file} can be read: {what}. It is of format {proof.format}, which carries no chain to prove."
                )
            return
    with Journal(Path(file), user, read_only=True) as journal:
        faults = journal.audit()
        if faults:
            raise InputError(f"{file} is damaged. {' '.join(faults)}")
        extent = journal.extent()
        what = f"{count(journal.count(), 'turn')} and {count(extent.forgetting, 'forgetting')} of {user}"
        write(f"{file} is whole: {what}, head {extent.head}.")


def _say_missing(written: Exported) -> None:
    if written.missing:
        say(
            f"The journal lacks {count(written.missing, 'turn')} that were not forgotten; the export holds what is there. "
            "`memagent doctor` says more."
        )
        raise typer.Exit(1)


def _chosen(
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


def _advance(report: object, size: int, label: str):  # type: ignore[no-untyped-def]
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        before, done = done, done + more
        if done * 200 // max(size, 1) != before * 200 // max(size, 1):
            report(done, size, label)  # type: ignore[operator]

    return advance
