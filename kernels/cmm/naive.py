"""The specification: the equations, one pair, one query and one code at a time.

Dimension letters: p pairs, n queries, i size of keys, o size of values, v codes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accumulate(matrix: Tensor, keys: Tensor, values: Tensor, *, subtract: bool = False) -> None:
    """Add the outer product of each key and its value to a matrix, in place (MeMo, arXiv 2502.12851, eq. 1).

    Args:
        matrix: [i, o].
        keys: [p, i].
        values: [p, o].
        subtract: Whether to subtract instead of adding.
    """
    for key, value in zip(keys, values, strict=True):
        product = torch.outer(key.to(matrix.dtype), value.to(matrix.dtype))
        matrix += -product if subtract else product


def retrieve(queries: Tensor, matrix: Tensor) -> Tensor:
    """Return the product of each query and the matrix, row by row (eq. 3).

    Args:
        queries: [n, i].
        matrix: [i, o].

    Returns:
        [n, o].
    """
    dtype = queries.dtype if queries.is_floating_point() else torch.float32
    output = torch.zeros(len(queries), matrix.shape[1], dtype=dtype, device=queries.device)
    for row, query in enumerate(queries):
        for element, weights in zip(query, matrix, strict=True):
            output[row] += element.to(dtype) * weights.to(dtype)
    return output


def nearest_codes(vectors: Tensor, codes: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return the codes with the largest inner products, by comparing all of them (eq. 4).

    Args:
        vectors: [n, o].
        codes: [v, o].
        limit: How many for each vector.

    Returns:
        Inner products [n, min(limit, v)], descending, and rows of ``codes``.
    """
    count = min(limit, len(codes))
    scores = torch.empty(len(vectors), count, dtype=vectors.dtype, device=vectors.device)
    rows = torch.empty(len(vectors), count, dtype=torch.int64, device=vectors.device)
    for i, vector in enumerate(vectors):
        products = [float((vector * code.to(vector.dtype)).sum()) for code in codes]
        for place, row in enumerate(sorted(range(len(codes)), key=lambda row: -products[row])[:count]):
            scores[i, place], rows[i, place] = products[row], row
    return scores, rows
