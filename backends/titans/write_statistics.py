"""Statistics of one write into a memory that learns at test time."""

from __future__ import annotations

from typing import NamedTuple


class WriteStatistics(NamedTuple):
    """The loss of a written text before the write, and by how much the write lowered it.

    Attributes:
        surprise: ``||M_{t-1}(k) - v||^2`` with values of length 1: 0 for what is known, about 1 for what is new, more for
            what contradicts the memory (the loss of Titans, equation 12).
        surprise_reduction: ``surprise`` minus the same loss after the write, ``||M_t(k) - v||^2``: small if there was little to
            learn, negative if momentum carried the step too far.
    """

    surprise: float
    surprise_reduction: float
