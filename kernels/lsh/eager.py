"""The operations of the index in plain PyTorch, for every device. ``naive.py`` specifies them."""

from __future__ import annotations

import torch

# Rows per step, so that the float32 copy of half-precision keys stays in the processor's cache.
_ROWS = 1 << 14


def exact_top(queries: torch.Tensor, keys: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """See `naive.exact_top`."""
    if not len(keys):
        return pad_top(queries.new_empty(len(queries), 0), limit)
    return pad_top(
        torch.cat([queries @ part.to(queries.dtype).T for part in torch.split(keys, _ROWS)], dim=1), limit
    )


def pad_top(scores: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest ``limit`` of scores [q, c] and their columns; short rows end in ``-inf`` and -1."""
    values, columns = scores.topk(min(limit, scores.shape[1]), dim=1)
    columns = columns.masked_fill(values == -torch.inf, -1)
    padding = (0, limit - values.shape[1])
    return (
        torch.nn.functional.pad(values, padding, value=-torch.inf),
        torch.nn.functional.pad(columns, padding, value=-1),
    )


def hash_codes(vectors: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """See `naive.hash_codes`."""
    weights = 1 << torch.arange(planes.shape[1], device=vectors.device)
    codes = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    for start in range(0, len(vectors), _ROWS):
        positive = vectors[start : start + _ROWS].to(planes.dtype) @ planes > 0
        codes[start : start + _ROWS] = (positive * weights).sum(1)
    return codes


def bucket_rows(buckets: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """See `naive.bucket_rows`."""
    first = offsets[buckets]
    sizes = offsets[buckets + 1] - first
    ends = sizes.cumsum(1)
    width = int(ends[:, -1].max()) if ends.numel() else 0
    columns = torch.arange(width, device=buckets.device).expand(len(buckets), -1).contiguous()
    place = torch.searchsorted(ends, columns, right=True).clamp_max_(max(buckets.shape[1] - 1, 0))
    rows = columns + (first - ends + sizes).gather(1, place)
    return rows.masked_fill_(columns >= ends[:, -1:], -1) if width else rows


def rerank(queries: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """See `naive.rerank`."""
    (count, width), dim = rows.shape, queries.shape[1]
    scores = torch.full((count, width), -torch.inf, dtype=queries.dtype, device=queries.device)
    if not scores.numel() or not len(keys):
        return scores
    step = max(_ROWS // count, 1)
    for start in range(0, width, step):
        part = rows[:, start : start + step]
        gathered = keys.index_select(0, part.clamp_min(0).reshape(-1)).view(count, -1, dim).to(queries.dtype)
        scores[:, start : start + step] = torch.bmm(queries[:, None], gathered.transpose(1, 2))[:, 0]
    return scores.masked_fill_(rows < 0, -torch.inf)
