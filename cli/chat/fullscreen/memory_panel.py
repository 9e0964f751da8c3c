"""The memory panel: for each turn what was recalled, remembered and forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual.containers import VerticalScroll
from textual.widgets import Static

from memagent.agent.engine.events import Recalled, Remembered
from memagent.cli.rendering.output import one_line

if TYPE_CHECKING:
    from memagent.agent.engine.events import Event


class MemoryPanel(VerticalScroll):
    """What memory did in this conversation, oldest first."""

    def show_event(self, event: Event) -> None:
        """Add what an event says about memory; other events change nothing."""
        if isinstance(event, Recalled):
            for item in event.in_view:
                self.mount(Static(Text(f"{item.score:.2f} {one_line(item.text)}"), markup=False))
        elif isinstance(event, Remembered):
            self.mount(Static(Text(f"+ turn {event.turn.seq}"), markup=False))
