"""The slash commands of the chat: one table for the dispatcher, /help and completion, in lines and on the full screen."""

from __future__ import annotations

from memagent.backends.errors import InputError, MemagentError
from memagent.cli.chat.chat import Chat, Interface
from memagent.cli.chat.commands import backends, memory, sessions
from memagent.cli.chat.commands.command import Command, Quit

__all__ = ["COMMANDS", "Command", "Quit", "completed", "completion_lines", "completions", "run"]

_KEYS = """\
Enter sends, Ctrl+J or Alt+Enter begins a new line, Up and Down walk through your messages, Tab completes a command or name.
Esc or Ctrl+C stops a reply, Ctrl+C twice or Ctrl+D leaves. F2 memory panel, F3 sessions, F4 pictures, Ctrl+F search,
Ctrl+Y copies the last reply, Ctrl+G writes the message in your editor, Ctrl+P has colour themes, Ctrl+Z suspends."""


def _help(chat: Chat, interface: Interface, argument: str) -> None:
    from rich.text import Text

    from memagent.cli.rendering.console import Table

    table = Table(gap=1)
    table.add_column("command", no_wrap=True)
    table.add_column("what it does", ratio=1)
    for command in COMMANDS.values():
        table.add_row(Text(command.usage, "bold"), command.about)
    interface.console.print(table)
    if interface.is_full_screen:
        interface.console.print()
        interface.console.print(_KEYS)


def _quit(chat: Chat, interface: Interface, argument: str) -> None:
    raise Quit


COMMANDS = {
    command.name: command
    for command in (
        Command("/help", "", "List the commands and keys.", _help),
        *memory.COMMANDS,
        *sessions.COMMANDS,
        *backends.COMMANDS,
        Command("/quit", "", "Leave the chat.", _quit),
    )
}
_SHOWN_VALUES = 8
_ALIASES = {"/exit": "/quit", "/?": "/help", "/memory": "/backend"}


def completions(line: str) -> list[Command]:
    """Return the commands that a line may be the beginning of; none once the name is complete and a space follows.

    Args:
        line: what is typed so far.
    """
    return [command for name, command in COMMANDS.items() if line.startswith("/") and name.startswith(line)]


def completed(line: str, chat: Chat | None) -> list[str]:
    """Return the lines that a line can be completed to: the name of a command, or its argument.

    Args:
        line: what is typed so far.
        chat: has the sessions; None: it is not open yet.
    """
    names = [command.name + " " * bool(command.argument) for command in completions(line)]
    name, space, argument = line.partition(" ")
    command = COMMANDS.get(_ALIASES.get(name, name))
    if names or not space or chat is None or command is None or command.values is None:
        return names
    try:
        values = command.values(chat)
    except (
        MemagentError
    ):  # the journal is busy, or closed while another memory is opened: the command will say so
        return []
    return [f"{name} {value}" for value in values if value.startswith(argument)]


def completion_lines(line: str, chat: Chat | None) -> list[str]:
    """Return what to show below a line while it is typed: commands with what they do, or arguments.

    Args:
        line: what is typed so far.
        chat: as in ``completed``.
    """
    matching = completions(line)
    width = max((len(command.usage) for command in matching), default=0)
    if matching:
        return [f"{command.usage:<{width}}  {command.about}" for command in matching]
    return completed(line, chat)[:_SHOWN_VALUES]


def run(line: str, chat: Chat, interface: Interface) -> None:
    """Run one slash command.

    Args:
        line: the command with its argument.
        chat: what it works on.
        interface: prints its result and asks its questions.

    Raises:
        InputError: there is no such command, or its argument does not fit.
        Quit: it was /quit.
        MemagentError: see the command.
    """
    name, _, argument = line.strip().partition(" ")
    name = _ALIASES.get(name, name)
    if name not in COMMANDS:
        raise InputError(f"There is no command {name}. Known: {', '.join(COMMANDS)}.")
    COMMANDS[name].function(chat, interface, argument.strip())
