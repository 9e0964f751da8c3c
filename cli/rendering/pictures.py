"""Pictures of a memory as tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memagent.backends.picture import Cell, Grid, Picture, Series
from memagent.cli.rendering.console import Console, Table, console

_MAX_ROWS = 50


def print_pictures(pictures: Iterable[Picture], on: Console | None = None) -> None:
    """Print tables, grids and series, each as a table of at most ``_MAX_ROWS`` rows; empty ones are left out.

    Args:
        pictures: what to print.
        on: where to print; by default standard output.
    """
    out = on or console()
    for picture in pictures:
        headings, rows = _cells(picture)
        if not rows:
            continue
        table = Table(*headings, title=picture.title)
        for row in rows[:_MAX_ROWS]:
            table.add_row(*map(_shown, row))
        out.print()
        out.print(table)
        if len(rows) > _MAX_ROWS:
            out.print(f"and {len(rows) - _MAX_ROWS} more; --output json has all")


def _cells(picture: Picture) -> tuple[list[str], Sequence[Sequence[Cell]]]:
    """Return the headings and the rows of a picture."""
    if isinstance(picture, Grid):
        rows = zip(picture.row_labels, picture.values, strict=True)
        return ["", *picture.column_labels], [(label, *values) for label, values in rows]
    if isinstance(picture, Series):
        x_label = _with_unit(picture.x_label, picture.x_unit)
        columns = [picture.x, *picture.curves.values()]
        return [x_label, *picture.curves], list(zip(*columns, strict=True))
    return [_with_unit(column.label, column.unit) for column in picture.columns], picture.rows


def _with_unit(label: str, unit: str) -> str:
    return f"{label} ({unit})" if unit else label


def _shown(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
