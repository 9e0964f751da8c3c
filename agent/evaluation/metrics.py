"""How well a ranking finds the evidence, and how sure a difference is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

KS = (1, 5, 10, 20)
Place = TypeVar("Place", bound=Hashable)
_RESAMPLES = 10_000


def recall_at(ranked: Sequence[Place], evidence: frozenset[Place], k: int) -> float:
    """Return the share of the evidence among the first ``k``, 0 to 1; 1 is best."""
    return len(evidence.intersection(ranked[:k])) / len(evidence)


def reciprocal_rank(ranked: Sequence[Place], evidence: frozenset[Place]) -> float:
    """Return 1 / rank of the first evidence, 0 if the ranking holds none; its mean over questions is the MRR."""
    return next((1 / rank for rank, place in enumerate(ranked, start=1) if place in evidence), 0.0)


def chance_recall_at(corpus: int, k: int) -> float:
    """Return the expected recall@k of a random order of ``corpus`` items."""
    return min(1.0, k / corpus)


def distinct(places: Iterable[Place]) -> list[Place]:
    """Return each place of a ranking once, at its best rank."""
    return list(dict.fromkeys(places))


def bootstrap_difference(
    ours: Sequence[float], theirs: Sequence[float], seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean difference over the same questions and its 95 % confidence interval.

    A paired percentile bootstrap (Efron and Tibshirani 1993, chapter 13): questions are drawn again
    with replacement 10,000 times, each with both of its values.

    Args:
        ours: values of one method, question by question; not empty.
        theirs: those of the other method, of the same questions in the same order.
        seed: for the resampling.

    Returns:
        The mean of ours - theirs, and the lower and upper bound of its interval.
    """
    difference: NDArray[np.float64] = np.asarray(ours, dtype=np.float64) - np.asarray(theirs)
    means = _resampled_means(difference, seed)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def _resampled_means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return the means of bootstrap samples: values drawn with replacement."""
    generator = np.random.default_rng(seed)
    size = len(values)
    batches = []
    for _ in range(0, _RESAMPLES, 500):  # 500 at a time: 10,000 questions take 40 MB
        batches.append(values[generator.integers(0, size, size=(500, size))].mean(axis=1))
    return np.concatenate(batches)


def token_f1(reply: str, answers: Sequence[str]) -> float:
    """Return the best F1 of the reply's words against an accepted answer's, as in SQuAD (Rajpurkar et al. 2016).

    Case, punctuation and articles do not count. 0 to 1; 1 is best.
    """
    return max((_f1(_words(reply), _words(answer)) for answer in answers), default=0.0)


def _words(text: str) -> list[str]:
    normalized = "".join(char for char in text.casefold() if char.isalnum() or char.isspace())
    return [word for word in normalized.split() if word not in ("a", "an", "the")]


def _f1(reply: list[str], answer: list[str]) -> float:
    unmatched = list(answer)
    common = 0
    for word in reply:
        if word in unmatched:
            unmatched.remove(word)
            common += 1
    return 2 * common / (len(reply) + len(answer)) if common else 0.0
