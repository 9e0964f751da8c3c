"""Reciprocal-rank fusion: one ranking out of several, from ranks alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[Key]], k: float, weights: Sequence[float] | None = None
) -> dict[Key, float]:
    """Fuse rankings, best first, into scores.

    A key's score is the sum over rankings of ``weight / (k + rank)``, ranks from 1 (Cormack, Clarke and
    Büttcher, SIGIR 2009), divided by the largest sum there can be: 1.0 means first everywhere.

    Args:
        rankings: keys, best first; a ranking without any counts as one.
        k: at least 0; a small one lets the top of one ranking outweigh the middle of all.
        weights: of the rankings, above 0; None: all count the same.

    Returns:
        Every key with its score in (0, 1], highest first, a higher score is better; ties in order of first appearance.
    """
    weights = weights or [1.0] * len(rankings)
    scores: dict[Key, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, key in enumerate(ranking, start=1):
            scores[key] = scores.get(key, 0.0) + weight / sum(weights) * (k + 1) / (k + rank)
    return dict(sorted(scores.items(), key=lambda item: -item[1]))
