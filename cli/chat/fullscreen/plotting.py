"""Curves and shades as characters, readable without colour."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise

_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot of a braille character, by row and column."""
SHADES = " ░▒▓█"
"""From the lowest value to the highest."""
_BLANK_SHARE = 0.02
"""The lowest part of the range that stays blank, as rounding hides it in the numbers too."""
NO_VALUE = "·"
"""Stands for a value that is not a number."""


def shade(value: float, low: float, high: float) -> str:
    """Return the character for a value: the fuller, the higher.

    Args:
        value: the value.
        low: the value of the emptiest character.
        high: the value of the fullest.
    """
    if not math.isfinite(value):
        return NO_VALUE
    return SHADES[math.ceil((fraction(value, low, high) - _BLANK_SHARE) * (len(SHADES) - 1))]


def fraction(value: float, low: float, high: float) -> float:
    """Return where a value is between two others, 0 to 1; 0.5 if both are the same."""
    if high <= low:
        return 0.5
    return min(1.0, max(0.0, (value - low) / (high - low)))


def plot(x: Sequence[float], y: Sequence[float], width: int, height: int) -> list[str]:
    """Return a curve as lines of text: braille dots, or stars where the terminal is the bare Linux console.

    Args:
        x: positions, ascending.
        y: values; those that are not finite are left out.
        width: in cells.
        height: in cells.
    """
    across, down = (1, 1) if os.environ.get("TERM") == "linux" else (2, 4)
    points = [pair for pair in zip(x, y, strict=True) if all(map(math.isfinite, pair))]
    dots = _dots(points, width * across, height * down)
    if across == 1:
        return [
            "".join("*" if (column, row) in dots else " " for column in range(width)) for row in range(height)
        ]
    return ["".join(_braille(column, row, dots) for column in range(width)) for row in range(height)]


def _dots(points: Sequence[tuple[float, float]], columns: int, rows: int) -> set[tuple[int, int]]:
    """Return the dots of the line through some points, as columns and rows from the upper left."""
    if not points:
        return set()
    left, right = points[0][0], points[-1][0]
    low, high = (bound(value for _, value in points) for bound in (min, max))
    places = [
        (
            round(fraction(position, left, right) * (columns - 1)),
            round((1 - fraction(value, low, high)) * (rows - 1)),
        )
        for position, value in points
    ]
    dots = {places[0]}
    for (column, row), (next_column, next_row) in pairwise(places):
        steps = max(abs(next_column - column), abs(next_row - row), 1)
        dots |= {
            (
                column + round((next_column - column) * step / steps),
                row + round((next_row - row) * step / steps),
            )
            for step in range(steps + 1)
        }
    return dots


def _braille(column: int, row: int, dots: set[tuple[int, int]]) -> str:
    code = sum(
        bit
        for down, bits in enumerate(_DOTS)
        for across, bit in enumerate(bits)
        if (2 * column + across, 4 * row + down) in dots
    )
    return chr(_BRAILLE + code) if code else " "
