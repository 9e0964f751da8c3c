"""Pictures of a memory as widgets: tables, grids of shades, curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import DataTable, Static

from memagent.backends.picture import Cell, Grid, Picture, Series, Table
from memagent.cli.chat.fullscreen.plotting import NO_VALUE, SHADES, fraction, plot, shade
from memagent.cli.rendering.output import one_line, printable

MAX_ROWS = 200
_MAX_COLUMNS = 60
_MAX_TEXT = 400
_MIN_TEXT_CELLS = 20
_MAX_LABEL_CELLS = 24
_PLOT_ROWS = 6
_MAX_HEADING_LINES = 3
_MAX_CURVES = 24
_CELL_CELLS = (4, 8)
"""The narrowest and the widest cell of a grid."""


def picture_widget(picture: Picture, width: int) -> Widget:
    """Return the widget that shows a picture.

    Args:
        picture: a table, a grid or a series; anything else is described in a line.
        width: of the place where it stands, in cells.
    """
    if isinstance(picture, Table):
        return TableWidget(picture, width)
    if isinstance(picture, Grid):
        return GridWidget(picture, width)
    if isinstance(picture, Series):
        return SeriesWidget(picture, width)
    kind = one_line(type(picture).__name__)
    return Static(Text(f"A picture of the kind {kind} cannot be drawn."), markup=False, classes="picture")


class TableWidget(Vertical):
    """A table. Long texts are wrapped; a table that is wider than its place is scrolled with it.

    Args:
        table: what it shows.
        width: of its place, in cells.
    """

    DEFAULT_CSS = """
    TableWidget { height: auto; width: auto; margin-bottom: 1; }
    TableWidget DataTable { height: auto; width: auto; background: transparent; overflow: hidden; }
    TableWidget Static { height: auto; width: auto; }
    """

    def __init__(self, table: Table, width: int) -> None:
        super().__init__(classes="picture")
        self._table = table
        self._rows = [[_cell_text(cell) for cell in row] for row in table.rows[:MAX_ROWS]]
        self._headings = [_with_unit(column.label, column.unit) for column in table.columns]
        self._widths = column_widths(self._headings, self._rows, width)

    def compose(self) -> ComposeResult:
        """Yield the title, the rows, and how many more there are."""
        yield _title(self._table.title)
        if not self._rows:
            yield Static("(empty)", markup=False)
            return
        headings = [wrapped(*pair) for pair in zip(self._headings, self._widths, strict=True)]
        grid: DataTable[Text] = DataTable(
            show_cursor=False, cursor_type="none", zebra_stripes=True, header_height=max(map(len, headings))
        )
        grid.can_focus = False
        for lines, width in zip(headings, self._widths, strict=True):
            grid.add_column(Text("\n".join(lines), "bold"), width=width)
        numeric = [
            all(is_number(row[place]) for row in self._table.rows) for place in range(len(self._headings))
        ]
        for row in self._rows:
            cells = [
                Text(text, justify="right" if is_numeric else "left")
                for text, is_numeric in zip(row, numeric, strict=True)
            ]
            grid.add_row(*cells, height=None)
        yield grid
        yield from _more(len(self._table.rows) - len(self._rows), "row")


class GridWidget(Static):
    """A grid of shades with a scale. A wide grid names its columns by numbers and lists what they stand for.

    Args:
        grid: what it shows.
        width: of its place, in cells.
    """

    DEFAULT_CSS = "GridWidget { height: auto; width: auto; margin-bottom: 1; }"

    def __init__(self, grid: Grid, width: int) -> None:
        super().__init__(grid_text(grid, width), markup=False, classes="picture")


class SeriesWidget(Static):
    """Curves below each other, over the same positions and each with its own scale.

    Args:
        series: what it shows.
        width: of its place, in cells.
    """

    DEFAULT_CSS = "SeriesWidget { height: auto; width: auto; margin-bottom: 1; }"

    def __init__(self, series: Series, width: int) -> None:
        super().__init__(series_text(series, width), markup=False, classes="picture")


def grid_text(grid: Grid, width: int) -> Text:
    """Return a grid as text: a shade and, where there is room, the number of each value.

    Args:
        grid: what to draw.
        width: in cells; the text may be wider if the grid has many columns.
    """
    columns = [_label(label) for label in grid.column_labels[:_MAX_COLUMNS]]
    rows = [_label(label) for label in grid.row_labels[:MAX_ROWS]]
    label_width = max(map(cell_len, rows), default=0)
    narrow, wide = _CELL_CELLS
    size = min(wide, max(narrow, (width - label_width) // max(1, len(columns))))
    fits = all(cell_len(column) < size for column in columns)
    headings = columns if fits else [str(number) for number in range(1, len(columns) + 1)]
    values = [row[: len(columns)] for row in grid.values[: len(rows)]]
    finite = [value for row in values for value in row if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    text = Text.assemble((_with_unit(one_line(grid.title), grid.unit), "bold"), "\n", no_wrap=True)
    text.append(
        " " * label_width + "".join(f" {' ' * (size - 1 - cell_len(name))}{name}" for name in headings), "dim"
    )
    for label, row in zip(rows, values, strict=True):
        text.append(f"\n{set_cell_size(label, label_width)}", "dim")
        for value in row:
            text.append(" ")
            text.append(_grid_cell(value, low, high, size - 1), _strength_style(value, low, high))
    text.append(f"\n{low:.2f} {SHADES[1:]} {high:.2f}", "dim")
    if any(len(row) > _MAX_COLUMNS for row in grid.values):
        text.append(f"\n{len(grid.column_labels) - _MAX_COLUMNS:,} more columns are not shown", "dim")
    if len(grid.row_labels) > len(rows):
        text.append(f"\n{len(grid.row_labels) - len(rows):,} more rows are not shown", "dim")
    if not fits:
        for number, column in enumerate(grid.column_labels[:_MAX_COLUMNS], start=1):
            text.append(f"\n{number:>3} {one_line(column)[:_MAX_TEXT]}", "dim")
    return text


def series_text(series: Series, width: int) -> Text:
    """Return a series as text: each curve with the highest and the lowest value beside it.

    Args:
        series: what to draw.
        width: in cells.
    """
    text = Text.assemble((_with_unit(one_line(series.title), series.unit), "bold"), no_wrap=True)
    if not series.x:
        text.append("\n(empty)")
    for label, values in list(series.curves.items())[:_MAX_CURVES] if series.x else ():
        finite = [value for value in values if math.isfinite(value)]
        scale = [
            _number(max(finite, default=math.nan)),
            *[""] * (_PLOT_ROWS - 2),
            _number(min(finite, default=math.nan)),
        ]
        scale_width = max(map(len, scale))
        cells = max(8, min(width - scale_width - 2, 100))
        text.append(f"\n{_label(label)}", "")
        for mark, line in zip(scale, plot(series.x, values, cells, _PLOT_ROWS), strict=True):
            text.append(f"\n{mark:>{scale_width}} │", "dim")
            text.append(line, "cyan")
        first, last = _number(series.x[0]), _number(series.x[-1])
        middle = one_line(_with_unit(series.x_label, series.x_unit))
        axis = f"{first} {middle:^{max(1, cells - len(first) - len(last) - 2)}} {last}"
        text.append(f"\n{'':>{scale_width}} └{'─' * cells}\n{'':>{scale_width}}  {axis}", "dim")
    if len(series.curves) > _MAX_CURVES:
        text.append(f"\n{len(series.curves) - _MAX_CURVES:,} more curves are not shown", "dim")
    return text


def column_widths(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return the width of each column: what its cells need, but texts share the place that is left.

    Args:
        headings: of the columns.
        rows: the cells' texts.
        width: of the place, in cells.
    """
    needs = [
        max(cell_len(line) for line in (_widest_word(heading), *(row[place] for row in rows)))
        for place, heading in enumerate(headings)
    ]
    room = width - 2 * len(needs)
    wide = [place for place, need in enumerate(needs) if need > _MIN_TEXT_CELLS]
    if sum(needs) <= room or not wide:
        return [max(1, need) for need in needs]
    rest = room - sum(need for place, need in enumerate(needs) if place not in wide)
    share = max(_MIN_TEXT_CELLS, rest // len(wide))
    return [min(need, share) if place in wide else max(1, need) for place, need in enumerate(needs)]


def wrapped(heading: str, width: int) -> list[str]:
    """Return a heading as at most three lines of whole words; what is too wide is cut.

    Args:
        heading: its words.
        width: of a line, in cells.
    """
    lines = [""]
    for word in heading.split():
        longer = f"{lines[-1]} {word}".strip()
        if cell_len(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [set_cell_size(line, min(width, cell_len(line))) for line in lines[:_MAX_HEADING_LINES]]


def is_number(cell: Cell) -> bool:
    """Return whether a cell is a number."""
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _cell_text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int | float):
        return _number(cell)
    return one_line(str(cell)[:_MAX_TEXT])


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def _grid_cell(value: float, low: float, high: float, size: int) -> str:
    """Return a cell: shades, or a shade and the number."""
    mark = shade(value, low, high)
    number = f"{value:.2f}"
    if size > len(number) + 1 and mark != NO_VALUE:
        return f"{mark * (size - len(number) - 1)} {number}"
    return mark * size


def _strength_style(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "dim"
    strength = fraction(value, low, high)
    return "bold yellow" if strength > 0.75 else "yellow" if strength > 0.4 else "cyan"


def _label(label: str) -> str:
    line = one_line(label)
    return line if cell_len(line) <= _MAX_LABEL_CELLS else f"{set_cell_size(line, _MAX_LABEL_CELLS - 3)}..."


def _widest_word(heading: str) -> str:
    return max(heading.split(), key=cell_len, default="")


def _title(title: str) -> Static:
    return Static(Text(printable(one_line(title)), "bold"), markup=False)


def _more(count: int, noun: str) -> ComposeResult:
    if count > 0:
        yield Static(f"{count:,} more {noun}s are not shown", markup=False)


def _with_unit(label: str, unit: str) -> str:
    return one_line(f"{label} ({unit})" if unit else label)
