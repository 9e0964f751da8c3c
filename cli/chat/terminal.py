"""The plain terminal chat: streamed text, multi-line input, interruption."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.text import Text

from memagent.agent.engine.events import Recalled, Token, TurnEnded
from memagent.backends.errors import MemagentError
from memagent.cli.chat import slash_commands as commands
from memagent.cli.rendering.console import Console
from memagent.cli.rendering.output import indented, is_yes, one_line, printable, read_line, write

if TYPE_CHECKING:
    from memagent.agent.engine.conversation import Conversation

_HISTORY = 500


def converse(
    conversation: Conversation, *, plain: bool, command: Sequence[str] = ("memagent", "chat")
) -> None:
    """Run the chat until the person leaves.

    Args:
        conversation: answers the messages.
        plain: no colours and no line editing; lines are read from standard input as they come.
        command: the command that began this chat, without the session; printed at the end, to continue it.
    """
    console = Console(no_color=plain)
    read = read_line if plain else _line_editor(conversation)
    console.print(
        one_line(
            f"{conversation.model.name} with {conversation.memory.name} memory, session {conversation.session}. "
            "/help lists the commands."
        ),
        style="dim",
    )
    while True:
        try:
            line = read()
            if line.strip():
                _handle(line, conversation, console)
        except (commands.Quit, EOFError):
            break
        except MemagentError as error:
            console.print(Text.assemble(("Error:", "red"), f" {indented(str(error))}"), soft_wrap=True)
    next_command = shlex.join([*command, "--session", conversation.session])
    console.print(one_line(f"Continue with: {next_command}"), style="dim", soft_wrap=True)


def _handle(line: str, conversation: Conversation, console: Console) -> None:
    if line.startswith("/"):
        commands.run(line, conversation, console, _ask)
        return
    with _interruptible(conversation):
        for event in conversation.send(line):
            if isinstance(event, Recalled) and event.in_view:
                count = len(event.in_view)
                console.print(
                    f"({count} recollection{'' if count == 1 else 's'}, {event.seconds * 1000:.0f} ms; /why)",
                    style="dim",
                )
            elif isinstance(event, Token):
                write(event.text, end="")
            elif isinstance(event, TurnEnded):
                console.print(" (stopped)" if event.stopped else "", style="dim")


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


def _ask(question: str) -> bool:
    write(f"{question} [y/N] ", end="")
    return is_yes(read_line())


def _line_editor(conversation: Conversation) -> Callable[[], str]:
    """Build a multi-line prompt; its history is the journal's, so that no second file holds the messages."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput

    class Printable(Processor):
        """Shows unsafe characters of past messages as dots; a message that is sent again keeps them."""

        def apply_transformation(self, line: TransformationInput) -> Transformation:
            return Transformation([(part[0], printable(part[1])) for part in line.fragments])

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    journal = conversation.memory.journal
    messages = [
        turn.text for turn in journal.turns(after=max(0, journal.last()[0] - _HISTORY)) if turn.role == "user"
    ]
    session: PromptSession[str] = PromptSession(
        message="> ",
        multiline=True,
        key_bindings=keys,
        prompt_continuation="  ",
        history=InMemoryHistory(messages),
        completer=WordCompleter([*commands.COMMANDS], sentence=True),
        complete_while_typing=False,
        input_processors=[Printable()],
    )

    def read() -> str:
        for last_try in (False, True):
            try:
                return session.prompt()
            except KeyboardInterrupt:
                if last_try:
                    raise EOFError from None
                write("Press Ctrl+C again, or Ctrl+D, to leave.")
        raise EOFError

    return read
