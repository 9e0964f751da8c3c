"""The field where a message is written: several lines, the history of messages, completion of commands."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from rich.text import Text
from textual import events
from textual.message import Message
from textual.widgets import TextArea

from memagent.cli.chat.commands import completed
from memagent.cli.rendering.output import printable

_NEWLINE_KEYS = ("ctrl+j", "alt+enter", "shift+enter")


class MessageInput(TextArea):
    """A field of several lines. Enter sends; Up on the first line and Down on the last walk through past messages.

    Attributes:
        complete: returns the lines that Tab completes a line to.
    """

    class Sent(Message):
        """The person sends a message.

        Attributes:
            text: the message.
        """

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(placeholder="Write a message, or / for a command", compact=True)
        self.show_line_numbers = False
        self.complete: Callable[[str], list[str]] = partial(completed, chat=None)
        self._history: list[str] = []
        self._place = 0
        self._draft = ""

    def get_line(self, line_index: int) -> Text:
        """Return a line as it is drawn: stored text may hold characters that would act on the terminal."""
        return Text(printable(self.document.get_line(line_index)), end="", no_wrap=True)

    def use_history(self, messages: Sequence[str]) -> None:
        """Take past messages, oldest first. What is being written stays."""
        self._history = list(messages)
        self._place = len(self._history)

    def give_back(self, text: str) -> None:
        """Put a message that could not be sent back into the field, before what was written since."""
        self.text = text if not self.text else f"{text}\n{self.text}"
        self.move_cursor(self.document.end)

    def put_aside(self) -> None:
        """Empty the field; Up brings back what was written."""
        if self.text.strip():
            self._history.append(self.text)
        self._place = len(self._history)
        self.text = ""

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "enter":
            self._send()
        elif event.key in _NEWLINE_KEYS:
            self.insert("\n")
        elif event.key == "up" and self.cursor_location[0] == 0:
            self._walk(-1)
        elif event.key == "down" and self.cursor_location[0] == self.document.line_count - 1:
            self._walk(1)
        elif event.key == "tab" and (lines := self.complete(self.text)):
            common = os.path.commonprefix(lines)
            self.text = common if len(common) > len(self.text) else lines[0]
            self.move_cursor(self.document.end)
        else:
            await super()._on_key(event)
            return
        event.prevent_default()
        event.stop()

    def _send(self) -> None:
        text = self.text
        if not text.strip():
            return
        self._draft = ""
        self.put_aside()
        self.post_message(self.Sent(text))

    def _walk(self, step: int) -> None:
        """Show the previous or the next message; behind the last one is the unsent draft."""
        place = min(max(self._place + step, 0), len(self._history))
        if place == self._place:
            return
        if self._place == len(self._history):
            self._draft = self.text
        self._place = place
        self.text = self._draft if place == len(self._history) else self._history[place]
        self.move_cursor(self.document.end)
