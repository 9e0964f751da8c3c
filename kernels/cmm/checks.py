"""Checks of the arguments of correlation matrices; each error says what is expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor

_TYPES = {torch.int32: torch.int8, torch.float32: torch.float32, torch.float64: torch.float64}
_INT32 = torch.iinfo(torch.int32)


def check_pairs(matrix: Tensor, keys: Tensor, values: Tensor) -> None:
    """Raise ValueError unless matrix, keys and values fit each other in shape and type."""
    if matrix.dim() != 2 or matrix.dtype not in _TYPES or not matrix.is_contiguous():
        raise ValueError(
            "matrix is expected to be a contiguous int32, float32 or float64 [d_in, d_out] rather than "
            f"{matrix.dtype} {list(matrix.shape)}"
        )
    dtype = _TYPES[matrix.dtype]
    pairs = len(keys) if keys.dim() else 0
    for name, tensor, size in (("keys", keys, matrix.shape[0]), ("values", values, matrix.shape[1])):
        if list(tensor.shape) != [pairs, size] or tensor.dtype != dtype:
            raise ValueError(
                f"{name} of a matrix {list(matrix.shape)} of {matrix.dtype} are expected to be {dtype} "
                f"{[pairs, size]} rather than {tensor.dtype} {list(tensor.shape)}"
            )


def check_range(matrix: Tensor, keys: Tensor, values: Tensor, *, subtract: bool) -> None:
    """Raise OverflowError if an element of an int32 matrix would leave its range.

    A bound from the largest magnitudes is enough nearly always; only beyond it the sums are computed in int64.
    """
    step = largest_magnitude(keys) * largest_magnitude(values) * len(keys)
    if largest_magnitude(matrix) + step <= _INT32.max:
        return
    sums = keys.to(torch.int64).T @ values.to(torch.int64)
    sums = matrix.to(torch.int64) + (-sums if subtract else sums)
    if int(sums.max()) > _INT32.max or int(sums.min()) < _INT32.min:
        raise OverflowError(
            f"every element is expected to stay within int32, but these {len(keys)} pairs would take one to "
            f"{max(int(sums.max()), -int(sums.min()))} in magnitude; store them in another matrix"
        )


def check_finite(**tensors: Tensor) -> None:
    """Raise ValueError if a floating tensor has inf or NaN."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} are expected to be finite, but some are inf or NaN")


def check_queries(queries: Tensor, matrix: Tensor) -> None:
    """Raise ValueError unless queries are finite and fit the matrix."""
    if queries.dim() != 2 or matrix.dim() != 2 or queries.shape[1] != matrix.shape[0]:
        raise ValueError(
            f"queries [n, d_in] and a matrix [d_in, d_out] are expected rather than {list(queries.shape)} "
            f"and {list(matrix.shape)}"
        )
    if queries.dtype != torch.int8 and not queries.is_floating_point():
        raise ValueError(f"queries are expected to be int8 or floating rather than {queries.dtype}")
    check_finite(queries=queries)


def check_codes(vectors: Tensor, codes: Tensor, limit: int) -> None:
    """Raise ValueError unless vectors are finite and fit the codes, and the limit is 1 or more."""
    if vectors.dim() != 2 or codes.dim() != 2 or vectors.shape[1] != codes.shape[1] or not len(codes):
        raise ValueError(
            "vectors [n, dim] and codes [tokens, dim], one or more, are expected rather than "
            f"{list(vectors.shape)} and {list(codes.shape)}"
        )
    if vectors.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"vectors are expected to be float32 or float64 rather than {vectors.dtype}")
    if limit < 1:
        raise ValueError(f"limit is expected to be at least 1 rather than {limit}")
    check_finite(vectors=vectors)


def largest_magnitude(tensor: Tensor) -> int:
    """Return the largest absolute value of an integer tensor, 0 of an empty one."""
    if not tensor.numel():
        return 0
    low, high = tensor.aminmax()
    return max(-int(low), int(high))
