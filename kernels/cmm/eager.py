"""The operations as products of matrices in plain PyTorch, for every device. ``naive.py`` specifies them."""

from __future__ import annotations

import torch
from torch import Tensor

from memagent.kernels.cmm.checks import largest_magnitude

# float32 holds every integer up to this magnitude.
_EXACT = 1 << 24
# Codes in a step: their float32 copy of 8 MB at 1,024 dimensions stays near the processor's cache. 1,024 to 16,384 tried on
# one CPU core with 100,000 codes of 512: the times differ by less than a tenth.
_CODES = 1 << 11


def accumulate(matrix: Tensor, keys: Tensor, values: Tensor, *, subtract: bool = False) -> None:
    """See `naive.accumulate`."""
    sign = -1 if subtract else 1
    if matrix.is_floating_point():
        matrix.addmm_(keys.T, values, alpha=sign)
        return
    # There is no fast product of integer matrices on CPUs. In float32 it is exact for so many pairs.
    rows = _EXACT // max(largest_magnitude(keys) * largest_magnitude(values), 1)
    for start in range(0, len(keys), rows):
        key_part, value_part = keys[start : start + rows], values[start : start + rows]
        product = key_part.to(torch.float32).T @ value_part.to(torch.float32)
        matrix.add_(product.to(torch.int32), alpha=sign)


def used_rows(keys: Tensor) -> Tensor | None:
    """Return the places at which keys ``[n, d_in]`` are not 0, int64, if they are less than a quarter; otherwise None."""
    used = keys.any(0).nonzero()[:, 0]
    return used if 4 * len(used) < keys.shape[1] else None


def retrieve(queries: Tensor, matrix: Tensor) -> Tensor:
    """See `naive.retrieve`."""
    dtype = queries.dtype if queries.is_floating_point() else torch.float32
    rows = used_rows(queries)
    if rows is not None:
        queries, matrix = queries[:, rows], matrix[rows]
    return queries.to(dtype) @ matrix.to(dtype)


def nearest_codes(vectors: Tensor, codes: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """See `naive.nearest_codes`."""
    scores = vectors.new_empty(len(vectors), 0)
    rows = torch.empty(len(vectors), 0, dtype=torch.int64, device=vectors.device)
    for start in range(0, len(codes), _CODES):
        products = vectors @ codes[start : start + _CODES].to(vectors.dtype).T
        best, columns = products.topk(min(limit, products.shape[1]), dim=1)
        scores, rows = torch.cat((scores, best), 1), torch.cat((rows, columns + start), 1)
        scores, places = scores.topk(min(limit, scores.shape[1]), dim=1)
        rows = rows.gather(1, places)
    return scores, rows
