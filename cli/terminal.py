"""The plain terminal chat: streaming text, multi-line input, interruption."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from memagent.agent.events import Recalled, Token, TurnEnded
from memagent.backends.errors import InputError, MemagentError
from memagent.cli import commands
from memagent.cli.render import plain as printable

if TYPE_CHECKING:
    from memagent.agent.conversation import Conversation

_HISTORY = 500


def converse(conversation: Conversation, *, plain: bool) -> None:
    """Talk until the person leaves.

    Args:
        plain: no colours and no line editing; lines are read from standard input as they come.
    """
    console = Console(no_color=plain, highlight=False)
    read = _lines if plain else _line_editor(conversation)
    console.print(
        f"[dim]{conversation.model.name} with {conversation.memory.name} memory, session {escape(conversation.session)}. "
        "/help lists the commands.[/]"
    )
    while True:
        try:
            line = read()
            if line.strip():
                _handle(line, conversation, console)
        except (commands.Quit, EOFError):
            break
        except MemagentError as error:
            console.print(f"[red]Error:[/] {escape(str(error))}", soft_wrap=True)
    console.print(
        f"[dim]Kept. Continue with: memagent chat --session {escape(shlex.quote(conversation.session))}[/]",
        soft_wrap=True,
    )


def _handle(line: str, conversation: Conversation, console: Console) -> None:
    if line.startswith("/"):
        commands.run(line, conversation, console, _ask)
        return
    with _interruptible(conversation):
        for event in conversation.send(line):
            if isinstance(event, Recalled) and event.shown:
                count = len(event.shown)
                console.print(
                    f"[dim]({count} recollection{'' if count == 1 else 's'}, {event.seconds * 1000:.0f} ms; /why)[/]"
                )
            elif isinstance(event, Token):
                console.file.write(printable(event.text))
                console.file.flush()
            elif isinstance(event, TurnEnded):
                console.print(" [dim](stopped)[/]" if event.stopped else "")


@contextmanager
def _interruptible(conversation: Conversation) -> Iterator[None]:
    """Let the first Ctrl+C stop the reply, and the second leave."""

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, previous)
        conversation.stop()

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _lines() -> str:
    raw = sys.stdin.buffer.readline()
    if not raw:
        raise EOFError
    try:
        return raw.decode().rstrip("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"The line is not valid UTF-8 at byte {error.start}; it was not sent.") from error


def _ask(question: str) -> bool:
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return _lines().strip().lower() in ("y", "yes")


def _line_editor(conversation: Conversation) -> Callable[[], str]:
    """Build a multi-line prompt whose history is what the user said before: no second file keeps it."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    journal = conversation.memory.journal
    past = [
        turn.text for turn in journal.turns(after=max(0, journal.last()[0] - _HISTORY)) if turn.role == "user"
    ]
    session: PromptSession[str] = PromptSession(
        message="> ",
        multiline=True,
        key_bindings=keys,
        prompt_continuation="  ",
        history=InMemoryHistory(past),
        completer=WordCompleter([*commands.COMMANDS], sentence=True),
        complete_while_typing=False,
    )

    def read() -> str:
        for last_try in (False, True):
            try:
                return session.prompt()
            except KeyboardInterrupt:
                if last_try:
                    raise EOFError from None
                print("Press Ctrl+C again, or Ctrl+D, to leave.")
        raise EOFError

    return read
