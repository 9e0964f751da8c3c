"""Pictures of a memory as plain data. A terminal, a web page or a plot can draw them without knowing the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        label: heading of the column.
        unit: unit of its numbers; empty: none.
    """

    label: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values.

    Attributes:
        title: heading of the table.
        columns: the columns, from left to right.
        rows: one value for each column, from top to bottom.

    Raises:
        ValueError: a row has more or fewer values than there are columns.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.title}: every row needs {len(self.columns)} values")


@dataclass(frozen=True, slots=True)
class Grid:
    """One number for each pair of a row and a column, such as the attention of each head to each chunk.

    Attributes:
        title: heading of the grid.
        row_labels: one label for each row.
        column_labels: one label for each column.
        values: ``[rows, columns]``; a higher value is drawn stronger.
        unit: unit of the values; empty: none.

    Raises:
        ValueError: the values do not fit the labels.
    """

    title: str
    row_labels: tuple[str, ...]
    column_labels: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    unit: str = ""

    def __post_init__(self) -> None:
        if len(self.values) != len(self.row_labels) or any(
            len(row) != len(self.column_labels) for row in self.values
        ):
            raise ValueError(
                f"{self.title}: expected {len(self.row_labels)} x {len(self.column_labels)} values"
            )


@dataclass(frozen=True, slots=True)
class Series:
    """One or more curves over the same positions, such as surprise over the turns of a conversation.

    Attributes:
        title: heading of the plot.
        x_label: what the positions are.
        x: positions, ascending.
        curves: values by the curve's label, each as long as ``x``.
        x_unit: unit of the positions; empty: none.
        unit: unit of the values; empty: none.

    Raises:
        ValueError: a curve is longer or shorter than ``x``.
    """

    title: str
    x_label: str
    x: tuple[float, ...]
    curves: Mapping[str, Sequence[float]]
    x_unit: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        for label, values in self.curves.items():
            if len(values) != len(self.x):
                raise ValueError(
                    f"{self.title}: {label} has {len(values)} values for {len(self.x)} positions"
                )


Picture = Table | Grid | Series
