"""memagent correct, pin, unpin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from memagent.backends.errors import InputError
from memagent.cli.commands.memory import forgotten_fields, update_memory
from memagent.cli.inputs import read_stdin, require_utf8
from memagent.cli.opening import backend_settings, home, open_beside, open_journal
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
from memagent.cli.rendering.output import as_json, confirm, write
from memagent.cli.rendering.phrases import and_forget_replies, forgot_replies, say_discarded, say_remaining

if TYPE_CHECKING:
    from memagent.agent.journal import JournalReader

SeqArgument = Annotated[
    int, typer.Argument(min=1, max=MAX_INTEGER, help="A turn's number, as recall shows it.")
]
SeqsArgument = Annotated[
    list[int], typer.Argument(min=1, max=MAX_INTEGER, help="Turns' numbers, as recall shows them.")
]
OptionalSeqsArgument = Annotated[
    list[int] | None,
    typer.Argument(
        min=1, max=MAX_INTEGER, help="Turns' numbers, as recall shows them; none lists what is pinned."
    ),
]


def correct(
    seq: SeqArgument,
    text: Annotated[str, typer.Argument(help="What it should have said; - reads it from standard input.")],
    yes: YesOption = False,
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    set_: SetOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Replace what was wrong: a new turn of the same session and date; the old one is forgotten, with replies that saw it.

    If something was right and has changed, remember the new fact instead: recall then shows both, and since when.

    Example:

      memagent correct 12 "My dog is called Biscuit, not Basket."
    """
    from memagent.agent.journal.records import check_text
    from memagent.agent.memory.forgetting import correct as correct_
    from memagent.cli.rendering.console import Console
    from memagent.cli.rendering.text import print_turns

    backend_settings(backend, set_)  # a wrong one is refused before anything is stored
    text = (read_stdin() if text == "-" else require_utf8(text, "The text")).strip()
    check_text(text)
    with open_journal(user, read_only=False) as journal:
        require_turns(journal, [seq])
        replies = journal.get(journal.replies_that_saw([seq]))
        if not yes:
            print_turns([*journal.get([seq]), *replies], Console(stderr=True))
            if not confirm(f"Replace this turn{and_forget_replies(len(replies))} for good?"):
                raise typer.Abort
        turn, forgotten = correct_(home(), journal, seq, text, open_beside(user, model))
    update_memory(user, backend, set_, model)
    if output is Output.JSON:
        as_json({"user": user, "seq": turn.seq, **forgotten_fields(forgotten)})
    else:
        write(f"Turn {turn.seq} takes the place of turn {seq}.{forgot_replies(len(forgotten.replies))}")
    say_discarded(forgotten.discarded)
    if say_remaining(forgotten.remaining):
        raise typer.Exit(1)


def pin(
    seqs: OptionalSeqsArgument = None, user: UserOption = DEFAULT_USER, output: OutputOption = Output.TEXT
) -> None:
    """Pin turns: every prompt holds them, whatever is asked. At most 8; without numbers, list what is pinned.

    Examples:

      memagent pin 12

      memagent pin --output json
    """
    with open_journal(user, read_only=not seqs) as journal:
        if seqs:
            require_turns(journal, seqs)
            journal.pin(seqs)
        _print_pinned(journal, output)


def unpin(seqs: SeqsArgument, user: UserOption = DEFAULT_USER, output: OutputOption = Output.TEXT) -> None:
    """Unpin turns: from now on they are recalled where they are relevant, like all others.

    Example:

      memagent unpin 12
    """
    with open_journal(user, read_only=False) as journal:
        require_turns(journal, seqs)
        journal.unpin(seqs)
        _print_pinned(journal, output)


def require_turns(journal: JournalReader, seqs: list[int]) -> None:
    """Refuse numbers of turns that the journal does not have.

    Raises:
        InputError: one of them is not there; the message names it.
    """
    missing = set(seqs).difference(turn.seq for turn in journal.get(seqs))
    if missing:
        raise InputError(
            f"There is no turn {min(missing)}. `memagent recall` and `memagent sessions show` show the numbers."
        )


def _print_pinned(journal: JournalReader, output: Output) -> None:
    from memagent.agent.fields import shown_turn_fields
    from memagent.cli.rendering.text import print_turns

    pinned = journal.pinned()
    if output is Output.JSON:
        as_json([shown_turn_fields(turn) for turn in pinned])
    elif pinned:
        write("Pinned:")
        print_turns(pinned)
    else:
        write("Nothing is pinned.")
