"""memagent sessions: list, show, delete, export."""

from __future__ import annotations

import typer

from memagent.cli.chat.session_deletion import SessionDeletion
from memagent.cli.opening import backend_settings, home, open_beside, open_journal
from memagent.cli.options import (
    DEFAULT_BACKEND,
    DEFAULT_USER,
    BackendOption,
    EmbedderOption,
    ModelOption,
    Output,
    OutputOption,
    SessionArgument,
    SetOption,
    UserOption,
    YesOption,
    user_settings,
)
from memagent.cli.rendering.output import as_json, confirm, json_file, write
from memagent.cli.rendering.phrases import say_remaining

app = typer.Typer(help="List, show, delete and export conversations.", invoke_without_command=True)


@app.callback()
def bare(context: typer.Context) -> None:
    """List, show, delete and export conversations."""
    if context.invoked_subcommand is None:
        list_(user_settings().user, Output.TEXT)


@app.command("list")
def list_(user: UserOption = DEFAULT_USER, output: OutputOption = Output.TEXT) -> None:
    """List sessions, the latest last. The title is the beginning of the user's first message.

    Example:

      memagent sessions list --user ana
    """
    from memagent.cli.rendering.text import print_sessions

    with open_journal(user) as journal:
        sessions = journal.sessions()
    if output is Output.JSON:
        as_json(
            [
                {
                    "session": session.name,
                    "title": session.title,
                    "created_at": session.created_at.isoformat(),
                    "last_at": session.last_at.isoformat() if session.last_at else None,
                    "turns": session.turns,
                }
                for session in sessions
            ]
        )
    else:
        print_sessions(sessions)


@app.command()
def show(name: SessionArgument, user: UserOption = DEFAULT_USER, output: OutputOption = Output.TEXT) -> None:
    """Print a session's turns with their numbers.

    Example:

      memagent sessions show monday
    """
    from memagent.agent.fields import shown_turn_fields
    from memagent.cli.rendering.text import print_turns

    with open_journal(user) as journal:
        journal.session(name)
        turns = list(journal.turns(session=name))
    if output is Output.JSON:
        as_json([shown_turn_fields(turn) for turn in turns])
    else:
        print_turns(turns)


@app.command()
def delete(
    name: SessionArgument,
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    set_: SetOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    yes: YesOption = False,
) -> None:
    """Forget all turns of a session for good, and its name. Replies in other sessions that may repeat them go too.

    Example:

      memagent sessions delete monday --yes
    """
    from memagent.agent.memory.forgetting import forget

    backend_settings(backend, set_)  # a wrong one is refused before anything is stored
    with open_journal(user, read_only=False) as journal:
        deletion = SessionDeletion.of(journal, name)
        if not yes and not confirm(deletion.question):
            raise typer.Abort
        sentence, forgotten = deletion.apply(
            journal, lambda seqs: forget(home(), journal, seqs, open_beside(user, model))
        )
    write(sentence)
    if say_remaining(forgotten.remaining):
        raise typer.Exit(1)


@app.command()
def export(name: SessionArgument, user: UserOption = DEFAULT_USER) -> None:
    """Write one session as JSON lines to standard output.

    Example:

      memagent sessions export monday > monday.jsonl
    """
    from memagent.agent.journal.export import export as export_

    with open_journal(user) as journal:
        export_(journal, json_file(), session=journal.session(name).name)
