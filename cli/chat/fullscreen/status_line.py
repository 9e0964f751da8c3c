"""The line at the bottom: model, memory, channel, context, speed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.widgets import Static

from memagent.cli.rendering.output import one_line

_SEPARATOR = "  ·  "


class StatusLine(Static):
    """Fields in a row, the most important first. Those that do not fit the width are left out, the last ones first."""

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._fields: list[str] = []

    def show(self, fields: Sequence[str]) -> None:
        """Show these fields.

        Args:
            fields: the most important first; empty ones are left out.
        """
        self._fields = [one_line(field) for field in fields if field]
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        """Fit the fields to the new width."""
        self._draw()

    def _draw(self) -> None:
        self.update(Text(fitting(self._fields, self.size.width), no_wrap=True, overflow="ellipsis"))


def fitting(fields: Sequence[str], width: int) -> str:
    """Return as many fields as fit a width, at least the first.

    Args:
        fields: the most important first.
        width: in cells of the terminal.
    """
    line = fields[0] if fields else ""
    for field in fields[1:]:
        longer = line + _SEPARATOR + field
        if cell_len(longer) > width:
            break
        line = longer
    return line
