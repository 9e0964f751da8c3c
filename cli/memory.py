"""remember, recall, forget, export, import."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memagent.backends.errors import InputError, MemagentError
from memagent.cli.common import (
    DEFAULT_BACKEND,
    DEFAULT_USER,
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
    open_journal,
    open_memory,
    read_stdin,
    require_user,
)
from memagent.cli.output import as_json, confirm, json_file, say, write

if TYPE_CHECKING:
    from memagent.agent.journal import Journal
    from memagent.backends.protocol import Turn


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

    lines = read_stdin().splitlines() if text == "-" else [decoded(text, "The statement")]
    statements = [line.strip() for line in lines if line.strip()]
    if not statements:
        raise InputError("There is nothing to remember: the text is empty.")
    check_backend(backend, set_)
    with open_(home(), user) as journal:
        turns = journal.extend([NewTurn(session, "user", statement) for statement in statements])
    taken = True
    try:
        open_memory(user, backend, set_, model=model, wait_seconds=2.0).close()
    except MemagentError as error:
        taken = False
        say(f"{error} The journal has what you said; the memory reads it there when it is next opened.")
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
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, help="Most recollections to return.")] = 5,
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
    from memagent.cli.render import print_recollections

    require_user(home(), user)
    with open_memory(user, backend, set_, model=model) as memory:
        found = memory.recall(decoded(query, "The query"), limit=limit)
    if output is Output.JSON:
        as_json([recollection_fields(item) for item in found])
    else:
        print_recollections(found)


def forget(
    seq: Annotated[
        list[int] | None, typer.Option("--seq", help="A turn's number; may be given several times.")
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

    Examples:

      memagent forget --seq 12

      memagent forget --matching "old address" --yes
    """
    from memagent.agent.forgetting import forget as forget_
    from memagent.agent.forgetting import replies_that_saw
    from memagent.cli.console import Console
    from memagent.cli.render import print_turns

    with open_journal(user) as journal:
        turns = _chosen(journal, seq, session, matching)
        replies = journal.get(replies_that_saw(journal, [turn.seq for turn in turns])) if turns else []
    if not turns:
        raise InputError(
            "No turn fits: nothing was forgotten. "
            f"`memagent sessions show NAME --user {shlex.quote(user)}` lists turns with their numbers."
        )
    if not yes:
        print_turns([*turns, *replies], Console(stderr=True))
        if not confirm(f"Forget {count(len(turns), 'turn')}{and_replies(len(replies))} for good?"):
            raise typer.Abort
    with open_memory(user, backend, set_, model=model) as memory:
        done = forget_(memory, [turn.seq for turn in turns])
    if output is Output.JSON:
        as_json({"user": user, "turns": done.turns, "replies": done.replies, "discarded": done.discarded})
        return
    write(f"Forgot {count(len(done.turns), 'turn')}{and_replies(len(done.replies))}.")
    if done.discarded:
        say(
            f"Removed the stored state of {', '.join(done.discarded)}; it is rebuilt without them when next used."
        )


def export(
    file: Annotated[str, typer.Argument(help="Where to write; - is standard output.")],
    user: UserOption = DEFAULT_USER,
) -> None:
    """Write everything a user said and was told to a file of JSON lines.

    Example:

      memagent export backup.jsonl
    """
    from memagent.agent.transfer import export as export_

    with open_journal(user) as journal:
        if file == "-":
            export_(journal, json_file())
            return
        target = Path(file)
        if not target.name:
            raise InputError(f"{file!r} names no file to write to.")
        fresh = target.with_name(target.name + ".part")
        try:
            with fresh.open("w", encoding="utf-8", newline="\n") as out:
                written = export_(journal, out)
            fresh.replace(target)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            raise InputError(f"{file} cannot be written: {error.strerror}.") from error
    say(f"Wrote {count(written, 'turn')} to {file}.")


def import_(
    file: Annotated[Path, typer.Argument(help="A file that `memagent export` wrote.")],
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    set_: SetOption = None,
    model: ModelOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Add an export to a user's journal. The whole file is checked first; turns already here are not added twice.

    The memory reads the new turns when it is next used.

    Example:

      memagent import backup.jsonl --user ana
    """
    from memagent.agent.forgetting import forget as forget_
    from memagent.agent.memory import open_journal as open_
    from memagent.agent.transfer import load, validate
    from memagent.cli.progress import bytes_reporter

    report = bytes_reporter()
    try:
        size = file.stat().st_size
    except OSError:  # said better when it is read
        size = 0
    validate(file, _advance(report, size, "Checking"))
    with open_(home(), user) as journal:
        done = load(journal, file, _advance(report, size, "Importing"))
    if done.to_forget:
        with open_memory(user, backend, set_, model=model) as memory:
            forget_(memory, done.to_forget)
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
