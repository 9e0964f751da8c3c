"""Slash commands on what is remembered: why, picture, remember, forget, correct, pin, unpin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memagent.backends.errors import InputError
from memagent.cli.chat.chat import Chat, Interface
from memagent.cli.chat.commands.command import Command
from memagent.cli.rendering.phrases import (
    and_forget_replies,
    forgot_replies,
    quantity,
    say_remaining,
)

if TYPE_CHECKING:
    from memagent.backends.records import Turn

# Of a turn's number; Python refuses to read more than 4,300.
_MOST_DIGITS = 19


def _why(chat: Chat, interface: Interface, argument: str) -> None:
    from memagent.cli.rendering.text import print_recollections

    recalled = chat.conversation.last_recalled
    if recalled is None:
        interface.console.print("No message was sent in this conversation yet.")
        return
    print_recollections(recalled.recollections, on=interface.console)
    left_out = len(recalled.recollections) - len(recalled.in_view)
    summary = f"{chat.memory.name} took {recalled.seconds * 1000:.0f} ms"
    summary += f"; {left_out} did not fit into the prompt" if left_out else ""
    interface.console.print(summary, style="dim")


def _picture(chat: Chat, interface: Interface, argument: str) -> None:
    from memagent.cli.rendering.pictures import print_pictures

    print_pictures(chat.memory.picture(argument), on=interface.console)


def _remember(chat: Chat, interface: Interface, argument: str) -> None:
    turn = chat.memory.remember(chat.conversation.session, "user", argument)
    interface.console.print(f"Remembered as turn {turn.seq}.")


def _forget(chat: Chat, interface: Interface, argument: str) -> None:
    turn = turn_at("/forget", chat, argument)
    _print_with_replies(turn, chat, interface)
    if interface.ask("Forget this for good?"):
        forgotten = chat.memory.forget([turn.seq])
        chat.conversation.last_recalled = None
        interface.console.print(f"Forgot {quantity(len(forgotten.turns) + len(forgotten.replies), 'turn')}.")
        say_remaining(forgotten.remaining, interface.frontend.notify)


def _correct(chat: Chat, interface: Interface, argument: str) -> None:
    from memagent.agent.journal.records import check_text

    place, _, text = argument.partition(" ")
    turn = turn_at("/correct", chat, place)
    check_text(text)
    replies = _print_with_replies(turn, chat, interface)
    if interface.ask(f"Replace this{and_forget_replies(replies)} for good?"):
        new_turn, forgotten = chat.memory.correct(turn.seq, text.strip())
        chat.conversation.last_recalled = None
        interface.console.print(
            f"Turn {new_turn.seq} takes the place of turn {turn.seq}.{forgot_replies(len(forgotten.replies))}"
        )
        say_remaining(forgotten.remaining, interface.frontend.notify)


def _pin(chat: Chat, interface: Interface, argument: str) -> None:
    if argument:
        chat.journal.pin([turn_at("/pin", chat, argument).seq])
    _print_pinned(chat, interface)


def _unpin(chat: Chat, interface: Interface, argument: str) -> None:
    chat.journal.unpin([turn_at("/unpin", chat, argument).seq])
    _print_pinned(chat, interface)


def turn_at(command: str, chat: Chat, place: str) -> Turn:
    """Return the turn that a command names: by number, or the user's last message.

    Args:
        command: its name, for the error.
        chat: whose journal has the turn.
        place: a number, or ``last``.

    Raises:
        InputError: it names no turn.
    """
    if place == "last":
        messages = [
            turn for turn in chat.journal.recent(64, chat.conversation.session) if turn.role == "user"
        ]
        turns = messages[-1:]
    elif place.isdecimal() and len(place) <= _MOST_DIGITS:
        turns = chat.journal.get([int(place)])
    else:
        raise InputError(f"{command} takes a turn's number, as /why shows it, or: {command} last")
    if not turns:
        raise InputError(f"There is no turn {place}.")
    return turns[0]


def _print_with_replies(turn: Turn, chat: Chat, interface: Interface) -> int:
    """Print a turn and the replies that are forgotten with it; return how many replies these are."""
    from memagent.cli.rendering.text import print_turns

    replies = chat.journal.get(chat.journal.replies_that_saw([turn.seq]))
    print_turns([turn, *replies], interface.console)
    return len(replies)


def _print_pinned(chat: Chat, interface: Interface) -> None:
    from memagent.cli.rendering.text import print_turns

    pinned = chat.journal.pinned()
    interface.console.print("In every prompt:" if pinned else "Nothing is pinned.")
    print_turns(pinned, interface.console)


COMMANDS = (
    Command("/why", "", "Show what was recalled for the last message, and why.", _why),
    Command("/picture", "[QUESTION]", "Draw the memory, or how it answers a question.", _picture),
    Command("/remember", "TEXT", "Store a text without a reply of the model.", _remember),
    Command("/forget", "TURN|last", "Forget a turn for good: its number, or your last message.", _forget),
    Command("/correct", "TURN|last TEXT", "Replace what a turn says.", _correct),
    Command("/pin", "[TURN|last]", "Keep a turn in every prompt; alone, list what is pinned.", _pin),
    Command("/unpin", "TURN|last", "Unpin a turn.", _unpin),
)
