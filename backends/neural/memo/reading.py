"""Reading a correlation matrix: copies in other types, and decoding to tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memagent.kernels.cmm import nearest_codes, retrieve

# The largest element of a copy. float16 ends at 65,504 and has 11 bits, so that a larger scale would not be finer.
_LARGEST = {torch.float32: None, torch.float16: 2048.0, torch.int8: 127.0}


# Codes that are copied to float32 at a time: 16 MB at 2,048 dimensions.
_CODES = 2048


@dataclass(frozen=True)
class MatrixCopy:
    """A copy of a matrix for reading, in a smaller type.

    Attributes:
        matrix: ``[d_in, d_out]``, float32, float16 or int8.
        scale: What its elements are multiplied by.
    """

    matrix: Tensor
    scale: float

    @classmethod
    def of(cls, matrix: Tensor, dtype: torch.dtype) -> MatrixCopy:
        """Copy an int32 matrix; its largest element is the largest of float16 or int8, so that none saturates.

        Args:
            matrix: ``[d_in, d_out]`` int32.
            dtype: float32, float16 or int8.

        Raises:
            ValueError: Another type.
        """
        if dtype not in _LARGEST:
            raise ValueError(f"copies are expected to be float32, float16 or int8 rather than {dtype}")
        largest = _LARGEST[dtype]
        if largest is None:
            return cls(matrix.to(dtype), 1.0)
        scale = max(float(matrix.abs().max()) / largest, 1.0 if dtype == torch.int8 else 1e-9)
        return cls((matrix / scale).round_().to(dtype), scale)

    def retrieve(self, queries: Tensor) -> Tensor:
        """Return what the queries retrieve; see `memagent.kernels.cmm.retrieve`."""
        return retrieve(queries, self.matrix) * self.scale


def binding(keys: Tensor) -> Tensor:
    """Return the signs to which the value of each bound key is bound by multiplication, and again to read it.

    Without them a frequent token drowns rare ones: cross-talk adds up over its pairs, because their values are equal. Neighbours
    are multiplied, because the product of two sums of the same signs would have a mean above 0.

    Args:
        keys: ``[..., dim]``, signs.
    """
    return keys * keys.roll(1, dims=-1)


class Reading:
    """A copy of a memory's last matrix and the codes of its tokens.

    Args:
        matrix: ``[dim, dim]`` int32.
        tokens: ``[tokens]`` int64.
        codes: ``[tokens, dim]`` int8.
        bound: Whether values are bound to their keys.
    """

    def __init__(self, matrix: Tensor, tokens: Tensor, codes: Tensor, *, bound: bool) -> None:
        self.tokens, self.codes = tokens, codes
        self._bound = bound
        self._copy = MatrixCopy.of(matrix, torch.float32)
        self._origin = matrix.data_ptr()

    def is_of(self, matrix: Tensor) -> bool:
        """Return whether the matrix has not been moved to another device since it was copied."""
        return self._origin == matrix.data_ptr()

    def retrieve(self, keys: Tensor) -> Tensor:
        """Return the weighted sums of next tokens' codes for keys ``[n, dim]``, in units of one stored pair."""
        keys = keys.to(self.codes.device)
        vectors = self._copy.retrieve(keys) / keys.shape[1]
        return vectors * binding(keys) if self._bound else vectors

    def best(self, keys: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """Return the weights and ids of the best tokens.

        Args:
            keys: ``[layers, n, dim]``, as `MeMoMemory.query_keys` returns them.
            limit: How many tokens.

        Returns:
            Weights ``[n, k]``, descending, in units of one stored pair, and token ids ``[n, k]``.
        """
        scores, rows = nearest_codes(self._summed(keys), self.codes, limit)
        return scores.cpu() / self.codes.shape[1], self.tokens[rows.cpu()]

    def weights(self, keys: Tensor) -> Tensor:
        """Return the weight of every token of ``tokens`` for keys ``[layers, n, dim]``: ``[n, tokens]``."""
        vectors = self._summed(keys)
        weights = vectors.new_empty(len(vectors), len(self.codes))
        for first in range(0, len(self.codes), _CODES):
            part = slice(first, first + _CODES)
            weights[:, part] = vectors @ self.codes[part].to(vectors.dtype).T
        return weights / self.codes.shape[1]

    def _summed(self, keys: Tensor) -> Tensor:
        """Return the sum of what all layers retrieve, ``[n, dim]``."""
        if not self._bound:
            return self.retrieve(keys.sum(0))
        return self.retrieve(keys.flatten(0, 1)).view(keys.shape).sum(0)
