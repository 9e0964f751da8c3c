"""The field that searches in the conversation."""

from __future__ import annotations

from textual import events
from textual.widget import Widget
from textual.widgets import Input

from memagent.cli.chat.fullscreen.conversation_view import ConversationView


class SearchField(Input):
    """Marks the messages that contain a text. Enter and Up go to the one before, Down to the next, Esc ends the search.

    Args:
        view: the conversation.
    """

    def __init__(self, view: ConversationView) -> None:
        super().__init__(placeholder="Search in this conversation", compact=True, id="search")
        self._view = view
        self._matches: list[Widget] = []
        self._place = 0

    def begin(self) -> None:
        """Show the field and let the person write."""
        self.add_class("-shown")
        self.focus()
        self._mark()

    def end(self) -> None:
        """Hide the field and the marks."""
        self.remove_class("-shown")
        for widget in self._matches:
            widget.remove_class("match")
        self._matches = []
        self._view.anchor()

    def on_input_changed(self) -> None:
        """Search for what is written now."""
        self._mark()

    def on_key(self, event: events.Key) -> None:
        """Go from match to match."""
        steps = {"enter": -1, "up": -1, "down": 1}
        if event.key in steps:
            event.stop()
            event.prevent_default()
            self._go(steps[event.key])

    def _mark(self) -> None:
        for widget in self._matches:
            widget.remove_class("match")
        self._matches = self._view.matches(self.value) if self.value.strip() else []
        for widget in self._matches:
            widget.add_class("match")
        self._place = len(self._matches)
        self._go(-1)

    def _go(self, step: int) -> None:
        count = len(self._matches)
        self.border_subtitle = f"{count} messages" if self.value.strip() else ""
        if count:
            self._place = (self._place + step) % count
            self._view.release_anchor()
            self._matches[self._place].scroll_visible(animate=False)
