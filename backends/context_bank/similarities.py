"""Similarities between the vectors of a block, and the attention that they give each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memagent.backends.context_bank.blocks import Floats, Integers

ATTENTION_TEMPERATURE = 0.1
"""Of the softmax over cosine similarities. Not tuned: at 0.1, a similarity higher by 0.1 gets 2.7 times the attention."""
_EXCLUDED = np.float32(-2)
"""Below every cosine: the similarity of a vector with itself never makes a pair."""


def average_attention(vectors: NDArray[np.floating[Any]], key_dim: int = 0) -> Floats:
    """Return how central each vector of a block is, ``[n]``, 0 to 1.

    Every vector asks, and spreads one unit of attention over the others, by a softmax over the cosines. The average attention of a
    vector is the mean of what the others give it; a vector without others has 0.

    Args:
        vectors: ``[n, dim]``.
        key_dim: number of leading elements that cosines are computed from; 0: all.
    """
    return Similarities(vectors, key_dim).average_attention()


class Similarities:
    """Cosines between the vectors of a block and the attention that they give each other, kept up while they are merged.

    Cosines are computed in float64 and rounded: rounding errors that depend on the number of threads do not reach them.
    """

    def __init__(self, vectors: NDArray[np.floating[Any]], key_dim: int) -> None:
        self._key_dim = key_dim or vectors.shape[1]
        self._units = self._unit(vectors)
        self.cosines: Floats = (self._units @ self._units.T).astype(np.float32)
        np.fill_diagonal(self.cosines, _EXCLUDED)
        self._exponentials: Floats = np.exp(self.cosines / ATTENTION_TEMPERATURE)
        np.fill_diagonal(self._exponentials, 0)

    def average_attention(self) -> Floats:
        """Return what each vector receives, ``[n]``, 0 for those that are removed; see ``average_attention``."""
        given = self._exponentials.sum(axis=1)
        shares = np.divide(1, given, out=np.zeros_like(given), where=given > 0)
        # einsum and not a product of matrices, whose rounding depends on the number of threads.
        received = np.einsum("i,ij->j", shares, self._exponentials)
        num_others = int(np.count_nonzero(given)) - 1
        attention: Floats = received / np.float32(max(1, num_others))
        return attention

    def best_pair(self, candidates: Integers, preferences: Floats | None = None) -> tuple[int, int]:
        """Return the most similar two of the candidates; of equal pairs the first.

        Args:
            candidates: ascending, two or more, ``[n]``.
            preferences: added to the cosines, symmetric, ``[n, n]``.
        """
        cosines = self.cosines[candidates].take(candidates, axis=1)
        if preferences is not None:
            cosines = cosines + preferences
        first, second = divmod(int(cosines.argmax()), len(candidates))
        return int(candidates[first]), int(candidates[second])

    def merge(self, kept: int, removed: int, vector: Floats) -> None:
        """Take over the vector ``[dim]`` that two were merged to."""
        unit = self._unit(vector[None])[0]
        self._units[removed], self._units[kept] = 0, unit
        cosines = (self._units @ unit).astype(np.float32)
        exponentials = np.where(self.cosines[kept] > _EXCLUDED, np.exp(cosines / ATTENTION_TEMPERATURE), 0)
        cosines[exponentials == 0] = _EXCLUDED
        for matrix, row, excluded in (
            (self.cosines, cosines, _EXCLUDED),
            (self._exponentials, exponentials, np.float32(0)),
        ):
            row[removed] = excluded
            matrix[kept], matrix[:, kept] = row, row
            matrix[removed], matrix[:, removed] = excluded, excluded

    def _unit(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        keys = vectors[:, : self._key_dim].astype(np.float64)
        norms = np.linalg.norm(keys, axis=1, keepdims=True)
        return keys / np.where(norms > 0, norms, 1)
