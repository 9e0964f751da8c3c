"""Questions that a person must answer before the chat goes on."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from memagent.cli.rendering.output import printable


class Confirmation(ModalScreen[bool]):
    """A yes-or-no question. The answer is no unless the person says yes.

    Args:
        question: what is asked.
        details: what it is about; empty: nothing.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape,ctrl+c", "dismiss(False)", "No", priority=True),
        Binding("left,right", "app.focus_next", "Move", show=False),
    ]

    def __init__(self, question: str, details: str = "") -> None:
        super().__init__()
        self._question = question
        self._details = details

    def compose(self) -> ComposeResult:
        """Yield the question and two buttons; No has the focus."""
        with Vertical(id="dialog"):
            if self._details:
                yield Static(Text(printable(self._details)), markup=False, id="details")
            yield Static(Text(printable(self._question)), markup=False, id="question")
            with Horizontal(id="buttons"):
                yield Button("No", id="no", compact=True)
                yield Button("Yes", id="yes", variant="error", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Take the button as the answer."""
        self.dismiss(event.button.id == "yes")
