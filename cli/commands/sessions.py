"""memagent sessions: list, show, delete, export."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from memagent.cli.opening import (
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
    home,
    open_beside,
    open_journal,
    say_remaining,
)
from memagent.cli.rendering.output import as_json, confirm, json_file, write

app = typer.Typer(help="List, show, delete and export conversations.", invoke_without_command=True)
NameArgument = Annotated[str, typer.Argument(help="The session's name.")]


@app.callback()
def bare(context: typer.Context) -> None:
    """List, show, delete and export conversations."""
    if context.invoked_subcommand is None:
        list_(os.environ.get("MEMAGENT_USER") or DEFAULT_USER, Output.TEXT)


@app.command("list")
def list_(user: UserOption = DEFAULT_USER, output: OutputOption = Output.TEXT) -> None:
    """List sessions, the latest last."""
    from memagent.cli.rendering.text import print_sessions

    with open_journal(user) as journal:
        found = journal.sessions()
    if output is Output.JSON:
        as_json(
            [
                {
                    "session": one.name,
                    "created_at": one.created_at.isoformat(),
                    "last_at": one.last_at.isoformat() if one.last_at else None,
                    "turns": one.turns,
                }
                for one in found
            ]
        )
    else:
        print_sessions(found)


@app.command()
def show(name: NameArgument, user: UserOption = DEFAULT_USER, output: OutputOption = Output.TEXT) -> None:
    """Print a session's turns with their numbers."""
    from memagent.cli.rendering.text import print_turns

    with open_journal(user) as journal:
        journal.session(name)
        turns = list(journal.turns(session=name))
    if output is Output.JSON:
        as_json(
            [
                {
                    "seq": turn.seq,
                    "role": turn.role,
                    "speaker": turn.speaker,
                    "text": turn.text,
                    "created_at": turn.created_at.isoformat(),
                    "attachments": [asdict(attachment) for attachment in turn.attachments],
                }
                for turn in turns
            ]
        )
    else:
        print_turns(turns)


@app.command()
def delete(
    name: NameArgument,
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    set_: SetOption = None,
    model: ModelOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget all turns of a session for good, and its name. Replies in other sessions that may repeat them go too."""
    from memagent.agent.memory.forgetting import forget, replies_that_saw

    check_backend(backend, set_)
    with open_journal(user, read_only=False) as journal:
        session = journal.session(name)
        seqs = [turn.seq for turn in journal.turns(session=name)]
        elsewhere = and_replies(len(replies_that_saw(journal, seqs)) if seqs else 0)
        turns = count(session.turns, "turn")
        if not yes and not confirm(f"Forget session {name!r} with {turns}{elsewhere} for good?"):
            raise typer.Abort
        done = forget(home(), journal, seqs, open_beside(user, model))
        journal.delete_session(name)
    write(f"Deleted session {name!r}: {count(len(seqs), 'turn')}{and_replies(len(done.replies))} forgotten.")
    if say_remaining(done.remaining):
        raise typer.Exit(1)


@app.command()
def export(name: NameArgument, user: UserOption = DEFAULT_USER) -> None:
    """Write one session as JSON lines to standard output."""
    from memagent.agent.journal.export import export as export_

    with open_journal(user) as journal:
        export_(journal, json_file(), session=journal.session(name).name)
