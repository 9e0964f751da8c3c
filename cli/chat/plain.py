"""The chat as lines of text: for pipes, dumb terminals and screen readers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.text import Text

from memagent.agent.engine.events import Recalled, Token, TurnEnded
from memagent.backends.errors import MemagentError
from memagent.cli.chat import commands
from memagent.cli.chat.chat import Chat, Interface
from memagent.cli.rendering.console import Console
from memagent.cli.rendering.frontend import standard_error
from memagent.cli.rendering.output import indented, is_interactive, is_yes, one_line, read_line, write
from memagent.cli.rendering.phrases import quantity

if TYPE_CHECKING:
    from memagent.agent.engine.conversation import Conversation


def converse(chat: Chat) -> None:
    """Read messages and commands from standard input, line by line, until it ends or the person leaves.

    Args:
        chat: answers the messages.
    """
    console = Console(no_color=True)
    interface = Interface(console, _ask, standard_error())
    conversation = chat.conversation
    console.print(
        one_line(
            f"{conversation.model.name} with {chat.memory.name} memory, session {conversation.session}. "
            "/help lists the commands."
        )
    )
    while True:
        try:
            line = _read()
            if line.startswith("/"):
                commands.run(line, chat, interface)
            elif line.strip():
                _answer(chat.conversation, line, console)
        except (commands.Quit, EOFError):
            break
        except MemagentError as error:
            console.print(Text(f"Error: {indented(str(error))}"), soft_wrap=True)
    console.print(one_line(f"Continue with: {chat.next_command}"), soft_wrap=True)


def _answer(conversation: Conversation, message: str, console: Console) -> None:
    """Send a message and print the reply while it is generated."""
    with _interruptible(conversation):
        for event in conversation.send(message):
            if isinstance(event, Recalled) and event.in_view:
                count = quantity(len(event.in_view), "recollection")
                console.print(f"({count}, {event.seconds * 1000:.0f} ms; /why)")
            elif isinstance(event, Token):
                write(event.text, end="")
            elif isinstance(event, TurnEnded):
                console.print(" (stopped)" if event.stopped else "")


@contextmanager
def _interruptible(conversation: Conversation) -> Iterator[None]:
    """Let the first Ctrl+C stop the reply, and the second end the program."""

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, previous)
        conversation.stop()

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _read() -> str:
    if is_interactive():
        write("> ", end="")
    return read_line()


def _ask(question: str) -> bool:
    write(f"{question} [y/N] ", end="")
    return is_yes(read_line())
