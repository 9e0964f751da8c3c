"""The slash commands of the chat: one table for the dispatcher, /help and completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from memagent.agent.journal.records import check_text
from memagent.backends.errors import InputError
from memagent.cli.rendering.phrases import and_forget_replies, forgot_replies, say_remaining

if TYPE_CHECKING:
    from memagent.agent.engine.conversation import Conversation
    from memagent.backends.records import Turn
    from memagent.cli.rendering.console import Console

# Of a turn's number; Python refuses to read more than 4,300.
_MOST_DIGITS = 19

Ask = Callable[[str], bool]
"""Asks the person a yes-or-no question; True is yes."""


class Quit(Exception):  # noqa: N818 - a request, not an error
    """The person asks to leave the chat."""


def help_(conversation: Conversation, console: Console, argument: str, ask: Ask) -> None:
    """List the commands."""
    from rich.text import Text

    for name, command in COMMANDS.items():
        console.print(Text.assemble((f"  {name:<22}", "bold"), f" {command.__doc__}"))
    console.print(
        "  Enter sends, Alt+Enter or Ctrl+J begins a new line, Ctrl+C stops a reply, Ctrl+D leaves."
    )


def why(conversation: Conversation, console: Console, argument: str, ask: Ask) -> None:
    """Show what was recalled for the last message, and why."""
    from memagent.cli.rendering.text import print_recollections

    recalled = conversation.last_recalled
    if recalled is None:
        console.print("No message was sent in this conversation yet.")
        return
    print_recollections(recalled.recollections, on=console)
    left_out = len(recalled.recollections) - len(recalled.in_view)
    summary = f"{conversation.memory.name} took {recalled.seconds * 1000:.0f} ms"
    summary += f"; {left_out} did not fit into the prompt" if left_out else ""
    console.print(summary, style="dim")


def forget(conversation: Conversation, console: Console, argument: str, ask: Ask) -> None:
    """Forget a turn for good: its number, or "last" for your last message."""
    turn = _turn("/forget", conversation, argument)
    _print_with_replies(turn, conversation, console)
    if ask("Forget this for good?"):
        forgotten = conversation.memory.forget([turn.seq])
        conversation.last_recalled = None
        console.print(f"Forgot {len(forgotten.turns) + len(forgotten.replies)} turns.")
        say_remaining(forgotten.remaining)


def correct(conversation: Conversation, console: Console, argument: str, ask: Ask) -> None:
    """Replace what a turn says: its number, or "last", and the text."""
    place, _, text = argument.partition(" ")
    turn = _turn("/correct", conversation, place)
    check_text(text)
    replies = _print_with_replies(turn, conversation, console)
    if ask(f"Replace this{and_forget_replies(replies)} for good?"):
        new_turn, forgotten = conversation.memory.correct(turn.seq, text.strip())
        conversation.last_recalled = None
        console.print(
            f"Turn {new_turn.seq} takes the place of turn {turn.seq}.{forgot_replies(len(forgotten.replies))}"
        )
        say_remaining(forgotten.remaining)


def pin(conversation: Conversation, console: Console, argument: str, ask: Ask) -> None:
    """Keep a turn in every prompt: its number, or "last"; alone, list what is pinned."""
    if argument:
        conversation.memory.journal.pin([_turn("/pin", conversation, argument).seq])
    _print_pinned(conversation, console)


def unpin(conversation: Conversation, console: Console, argument: str, ask: Ask) -> None:
    """Unpin a turn: its number, or "last"."""
    conversation.memory.journal.unpin([_turn("/unpin", conversation, argument).seq])
    _print_pinned(conversation, console)


def _turn(command: str, conversation: Conversation, place: str) -> Turn:
    """Return the turn that a command names: by number, or the user's last message."""
    journal = conversation.memory.journal
    if place == "last":
        messages = [turn for turn in journal.recent(64, conversation.session) if turn.role == "user"]
        turns = messages[-1:]
    elif place.isdecimal() and len(place) <= _MOST_DIGITS:
        turns = journal.get([int(place)])
    else:
        raise InputError(f"{command} takes a turn's number, as /why shows it, or: {command} last")
    if not turns:
        raise InputError(f"There is no turn {place}.")
    return turns[0]


def _print_with_replies(turn: Turn, conversation: Conversation, console: Console) -> int:
    """Print a turn and the replies that are forgotten with it; return how many replies these are."""
    from memagent.cli.rendering.text import print_turns

    journal = conversation.memory.journal
    replies = journal.get(journal.replies_that_saw([turn.seq]))
    print_turns([turn, *replies], console)
    return len(replies)


def _print_pinned(conversation: Conversation, console: Console) -> None:
    from memagent.cli.rendering.text import print_turns

    pinned = conversation.memory.journal.pinned()
    console.print("In every prompt:" if pinned else "Nothing is pinned.")
    print_turns(pinned, console)


def sessions(conversation: Conversation, console: Console, argument: str, ask: Ask) -> None:
    """List your sessions."""
    from memagent.cli.rendering.text import print_sessions

    print_sessions(conversation.memory.journal.sessions(), console)


def quit_(conversation: Conversation, console: Console, argument: str, ask: Ask) -> None:
    """Leave the chat."""
    raise Quit


COMMANDS: dict[str, Callable[[Conversation, Console, str, Ask], None]] = {
    "/help": help_,
    "/why": why,
    "/forget": forget,
    "/correct": correct,
    "/pin": pin,
    "/unpin": unpin,
    "/sessions": sessions,
    "/quit": quit_,
}


def run(line: str, conversation: Conversation, console: Console, ask: Ask) -> None:
    """Run one slash command.

    Raises:
        InputError: there is no such command, or its argument does not fit.
        Quit: it was /quit.
    """
    name, _, argument = line.strip().partition(" ")
    if name not in COMMANDS:
        raise InputError(f"There is no command {name}. Known: {', '.join(COMMANDS)}.")
    COMMANDS[name](conversation, console, argument.strip(), ask)
