"""Tables and colours by rich; unsafe characters are replaced (see ``cli.rendering.output``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import rich.console
import rich.table
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from memagent.cli.rendering.output import one_line, printable

_PIPE_WIDTH = 200


class Console(rich.console.Console):
    """A console that prints text as it is, without markup or emoji, and no unsafe characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def render(
        self,
        renderable: rich.console.RenderableType,
        options: rich.console.ConsoleOptions | None = None,
    ) -> Iterable[Segment]:
        """Yield rich's segments with unsafe characters replaced."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


class Table(rich.table.Table):
    """A table without lines. Each cell is one line of text: a newline in a name cannot look like another row.

    Args:
        headings: of the columns; more can be added.
        title: the line above the table.
        gap: spaces between columns.
    """

    def __init__(self, *headings: str, title: str | None = None, gap: int = 2) -> None:
        super().__init__(title=title, title_justify="left", box=None, padding=(0, gap), show_edge=False)
        for heading in headings:
            self.add_column(heading)

    def add_column(self, header: rich.console.RenderableType = "", *arguments: Any, **options: Any) -> None:
        """Add a column; see ``rich.table.Table.add_column``."""
        super().add_column(_cell(header), *arguments, **options)

    def add_row(
        self,
        *cells: rich.console.RenderableType | None,
        style: str | Style | None = None,
        end_section: bool = False,
    ) -> None:
        """Add a row; see ``rich.table.Table.add_row``."""
        super().add_row(*map(_cell, cells), style=style, end_section=end_section)


def console() -> Console:
    """Return the console for results; in a pipe it is so wide that no cell is cut."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=_PIPE_WIDTH)


def _cell(cell: Any) -> Any:
    if isinstance(cell, str):
        return Text(one_line(cell))
    if isinstance(cell, Text):
        cell = cell.copy()
        cell.plain = one_line(cell.plain)
    return cell
