"""The slash commands of the chat: one table for the dispatcher, /help and completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from memagent.backends.errors import InputError
from memagent.cli.rendering.phrases import say_remaining

if TYPE_CHECKING:
    from memagent.agent.engine.conversation import Conversation
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
    from memagent.agent.memory.forgetting import replies_that_saw
    from memagent.cli.rendering.text import print_turns

    journal = conversation.memory.journal
    if argument == "last":
        messages = [turn for turn in journal.recent(conversation.session, 64) if turn.role == "user"]
        turns = messages[-1:]
    elif argument.isdecimal() and len(argument) <= _MOST_DIGITS:
        turns = journal.get([int(argument)])
    else:
        raise InputError("/forget takes a turn's number, as /why shows it, or: /forget last")
    if not turns:
        raise InputError(f"There is no turn {argument}.")
    replies = journal.get(replies_that_saw(journal, [turns[0].seq]))
    print_turns([*turns, *replies], console)
    if ask("Forget this for good?"):
        forgotten = conversation.memory.forget([turns[0].seq])
        conversation.last_recalled = None
        console.print(f"Forgot {len(forgotten.turns) + len(forgotten.replies)} turns.")
        say_remaining(forgotten.remaining)


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
