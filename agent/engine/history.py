"""Which of a session's recent turns a prompt holds, so that the first one changes rarely."""

from __future__ import annotations

from collections.abc import Sequence


def first_kept(sizes: Sequence[int], limit: int) -> int:
    """Return the index of the first recent turn that fits a limit, such that it stays the same for many turns.

    Turns are added one after the other. When they exceed the limit, the oldest are dropped until at least half the limit is
    free. A turn that alone takes more than half the limit is kept as long as it fits.
    It depends on the turns alone: a longer sequence with the same beginning gives the same index or a later one.

    Args:
        sizes: of the turns, in tokens, oldest first.
        limit: most tokens.
    """
    block = limit // 2
    first, total = 0, 0
    for last, size in enumerate(sizes):
        total += size
        if total <= limit:
            continue
        while first <= last and (total > limit or (total > limit - block and sizes[first] <= block)):
            total -= sizes[first]
            first += 1
    return first
