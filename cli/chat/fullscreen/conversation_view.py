"""The conversation: messages, replies that are streamed as Markdown, notices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from memagent.cli.rendering.output import printable

if TYPE_CHECKING:
    from memagent.backends.records import Turn

_MAX_LINES = 40
"""Lines of a message that are shown; a paste may have thousands."""


class UserMessage(Static):
    """A message of the user.

    Args:
        text: the message.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        lines = printable(text).split("\n")
        shown = "\n".join(lines[:_MAX_LINES])
        if len(lines) > _MAX_LINES:
            shown += f"\n({len(lines) - _MAX_LINES:,} more lines)"
        super().__init__(Text(shown), markup=False, classes="message")


class ModelReply(Vertical):
    """A reply of the model, which may still be growing.

    Args:
        text: what is there already.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(classes="reply")
        self.text = text
        self._markdown = Markdown(printable(text), open_links=False)
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        """Yield the text; the line below it comes with ``end``."""
        yield self._markdown

    async def add(self, text: str) -> None:
        """Show the next part of the reply. Parts that come faster than the screen can follow are joined."""
        self.text += text
        if self._stream is None:
            self._stream = Markdown.get_stream(self._markdown)
        await self._stream.write(printable(text))

    async def end(self, footer: str = "") -> None:
        """Show that the reply has ended.

        Args:
            footer: a line below it; empty: none.
        """
        if self._stream is not None:
            await self._stream.stop()
            self._stream = None
        if footer:
            await self.mount(Static(Text(footer), markup=False, classes="footer"))


class Notice(Static):
    """What the program says, such as the result of a slash command.

    Args:
        text: what it says.
        is_error: whether it is an error.
    """

    def __init__(self, text: str | Text, *, is_error: bool = False) -> None:
        self.text = str(text)
        shown = Text(printable(text)) if isinstance(text, str) else text
        super().__init__(shown, markup=False, classes="error" if is_error else "notice")


class ConversationView(VerticalScroll):
    """The conversation, oldest message first. It stays at the end unless the reader has scrolled up."""

    can_focus = False

    def on_mount(self) -> None:
        """Stay at the end while content grows."""
        self.anchor()

    async def add(self, widget: UserMessage | ModelReply | Notice) -> None:
        """Show something below the rest."""
        await self.mount(widget)

    async def show_turns(self, turns: Sequence[Turn]) -> None:
        """Replace all content by the turns of a session.

        Args:
            turns: oldest first.
        """
        await self.remove_children()
        widgets = [UserMessage(turn.text) if turn.role == "user" else ModelReply(turn.text) for turn in turns]
        await self.mount_all(widgets)
        self.anchor()

    def last_reply(self) -> str | None:
        """Return the text of the last reply; None if there is none."""
        replies = list(self.query(ModelReply))
        return replies[-1].text if replies else None

    def matches(self, text: str) -> list[Widget]:
        """Return the messages and replies that contain a text, ignoring case, oldest first."""
        wanted = text.casefold()
        return [
            child
            for child in self.children
            if isinstance(child, UserMessage | ModelReply) and wanted in child.text.casefold()
        ]
