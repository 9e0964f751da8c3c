"""What learning did."""

from __future__ import annotations

from typing import NamedTuple


class Written(NamedTuple):
    """What writing a span did.

    Attributes:
        surprise: ``||M_{t-1}(k) - v||^2`` before it was written: 0 for what is known, about 1 for what is new, more for
            what contradicts.
        strength: how much of its surprise was learnt at once: what was known leaves little to learn.
    """

    surprise: float
    strength: float
