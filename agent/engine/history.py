"""What was said before a message, and which recent turns a prompt holds, so that the first one changes rarely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memagent.backends.records import Turn


@dataclass(frozen=True, slots=True)
class History:
    """What was said before a message, as far as prompt and recall need it.

    Attributes:
        turns: of the user and the assistant, oldest first; one that the journal lacks has the seq 0.
        excluded_seqs: seqs of turns that are not recalled for the message.
        excluded_texts: recollections with one of these texts, without white space around it, are left out.
    """

    turns: Sequence[Turn]
    excluded_seqs: frozenset[int] = frozenset()
    excluded_texts: frozenset[str] = frozenset()


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
