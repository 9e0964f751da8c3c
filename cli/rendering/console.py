"""Tables and colours: rich, with what it prints made harmless on its way out (see ``cli.output``)."""

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
    """A console that takes no text for markup or emoji, and prints no unsafe character, whatever it is handed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def render(
        self,
        renderable: rich.console.RenderableType,
        options: rich.console.ConsoleOptions | None = None,
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


class Table(rich.table.Table):
    """A table without lines. Each cell is one line of text: a newline in a name cannot look like another row.

    Args:
        headings: of the columns; more can be added.
        title: stands above it.
        gap: between columns, in spaces.
    """

    def __init__(self, *headings: str, title: str | None = None, gap: int = 2) -> None:
        super().__init__(title=title, title_justify="left", box=None, padding=(0, gap), show_edge=False)
        for heading in headings:
            self.add_column(heading)

    def add_column(self, header: rich.console.RenderableType = "", *more: Any, **options: Any) -> None:
        super().add_column(_cell(header), *more, **options)

    def add_row(
        self,
        *cells: rich.console.RenderableType | None,
        style: str | Style | None = None,
        end_section: bool = False,
    ) -> None:
        super().add_row(*map(_cell, cells), style=style, end_section=end_section)


def console() -> Console:
    """The console for results; in a pipe it is wide enough to cut nothing short."""
    made = Console()
    return made if made.is_terminal else Console(width=_PIPE_WIDTH)


def _cell(cell: Any) -> Any:
    if isinstance(cell, str):
        return Text(one_line(cell))
    if isinstance(cell, Text):
        cell = cell.copy()
        cell.plain = one_line(cell.plain)
    return cell
