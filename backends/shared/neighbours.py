"""What is said before and after a turn: it often holds the question that a turn answers, or the other way round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def with_neighbours(
    values: NDArray[np.float64], seqs: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return values, and those of the places before and after, 0 where there are turns between.

    Args:
        values: ``[n]``.
        seqs: of the values' turns, ascending, ``[n]``.
    """
    adjacent = np.diff(np.array(seqs, np.int64)) <= 1
    before, after = np.zeros(len(values)), np.zeros(len(values))
    before[1:][adjacent] = values[:-1][adjacent]
    after[:-1][adjacent] = values[1:][adjacent]
    return values, before, after
