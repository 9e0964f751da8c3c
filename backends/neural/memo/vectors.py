"""Random vectors of signs: codes of tokens, drawn when they are first needed, and Johnson-Lindenstrauss projections.

Each vector is a function of the seed, its purpose and its number alone: bits of SHAKE-128, the same on every platform,
whatever was drawn before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from memagent.backends.neural.memo.settings import MeMoSettings


def signs(seed: int, purpose: str, number: int, size: int) -> Tensor:
    """Return a random vector of +1 and -1.

    Two vectors of size d have an inner product of mean 0 and variance d, as independent Gaussian vectors scaled to norm
    ``sqrt(d)`` have. (The bound in the paper's appendix A does not follow from its lemma and is not used.)

    Args:
        seed: Of all vectors.
        purpose: What the vector is for; vectors of different purposes are independent.
        number: Which of these vectors, any integer.
        size: Of the vector; a multiple of 8.

    Returns:
        ``[size]`` int8.
    """
    digest = hashlib.shake_128(f"{seed} {purpose} {number}".encode()).digest(size // 8)
    bits = np.unpackbits(np.frombuffer(digest, np.uint8))
    return torch.from_numpy(2 * bits.astype(np.int8) - 1)


def sign(sums: Tensor) -> Tensor:
    """Return the signs of sums, int8. The projections below sum an odd number of signs, so that no sum is 0."""
    return (2 * (sums > 0).to(torch.int8)) - 1


class Vectors:
    """The vectors of one memory. Those that were used stay in a cache; nothing of it is ever stored.

    Args:
        settings: Sizes and seed.
    """

    def __init__(self, settings: MeMoSettings) -> None:
        self._settings = settings
        self._rows: dict[int, int] = {}
        # On the CPU even where transformers makes a model on no device, to fill it afterwards.
        self._table = torch.empty(0, settings.dim, dtype=torch.int8, device="cpu")
        self.block_projection = cache(self._block_projection)
        self.sequence_projection = cache(self._sequence_projection)

    def codes(self, ids: Sequence[int]) -> Tensor:
        """Return the codes of tokens.

        Args:
            ids: Token ids; negative ids are the places before a text's beginning.

        Returns:
            ``[len(ids), dim]`` int8.
        """
        missing = [number for number in dict.fromkeys(ids) if number not in self._rows]
        for number in missing:
            row = len(self._rows)
            if row == len(self._table):
                self._table = torch.cat(
                    (self._table, self._table.new_empty(max(row, 64), self._table.shape[1]))
                )
            self._table[row] = signs(self._settings.seed, "token", number, self._settings.dim)
            self._rows[number] = row
        return self._table[torch.tensor([self._rows[number] for number in ids], dtype=torch.int64)]

    @property
    def drawn(self) -> int:
        """The number of tokens whose codes have been drawn."""
        return len(self._rows)

    def _block_projection(self, layer: int) -> Tensor:
        """Return W_V of a layer (eq. 2), ``[dim, dim / heads]`` float32: a block's code to its part of a key."""
        return self._projection(
            f"block {layer}", self._settings.dim, self._settings.dim // self._settings.heads
        )

    def _sequence_projection(self, layer: int) -> Tensor:
        """Return Prj of a layer (section 3.2), ``[heads * dim, dim]`` float32: the blocks of a window to its code."""
        return self._projection(
            f"sequence {layer}", self._settings.heads * self._settings.dim, self._settings.dim
        )

    def _projection(self, purpose: str, rows: int, columns: int) -> Tensor:
        bits = -(-rows * columns // 8) * 8
        projection = (
            signs(self._settings.seed, purpose, 0, bits)[: rows * columns].view(rows, columns).float()
        )
        projection[-1] = 0  # an odd number of terms
        return projection
