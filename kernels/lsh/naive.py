"""The specification of the index's operations: plain loops, one key at a time, in float64 if the queries are.

Dimension letters: q queries, n keys, d head dimension, b bits, p probed buckets, c candidates.
"""

from __future__ import annotations

import torch


def exact_top(queries: torch.Tensor, keys: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys with the largest inner products, by comparing all of them.

    Args:
        queries: [q, d].
        keys: [n, d], any floating type.
        limit: how many a query.

    Returns:
        Scores [q, limit], descending, higher is nearer, ``-inf`` padded; rows of ``keys`` [q, limit], -1 padded.
    """
    scores = torch.full((len(queries), limit), -torch.inf, dtype=queries.dtype, device=queries.device)
    rows = torch.full((len(queries), limit), -1, dtype=torch.int64, device=queries.device)
    for i, query in enumerate(queries):
        products = [float((query * key.to(query.dtype)).sum()) for key in keys]
        best = sorted(range(len(keys)), key=lambda row: -products[row])[:limit]
        for place, row in enumerate(best):
            scores[i, place], rows[i, place] = products[row], row
    return scores, rows


def hash_codes(vectors: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """Return the bucket numbers of vectors: bit j is set where the projection on plane j is positive.

    Signed projections, Charikar 2002, "Similarity estimation techniques from rounding algorithms".

    Args:
        vectors: [n, d], any floating type, already centred.
        planes: [d, b], normals of the hyperplanes, b < 63.

    Returns:
        [n] int64.
    """
    codes = torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device)
    for row, vector in enumerate(vectors):
        for bit in range(planes.shape[1]):
            positive = (vector.to(planes.dtype) * planes[:, bit]).sum() > 0
            codes[row] += int(positive) << bit
    return codes


def bucket_rows(buckets: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """List the rows that lie in chosen buckets.

    Args:
        buckets: [q, p] int64, the places of distinct buckets, in any order.
        offsets: [buckets + 1] int64; bucket i holds rows ``offsets[i]`` to ``offsets[i + 1] - 1``.

    Returns:
        [q, c] int64, bucket after bucket as given, -1 padded to the longest list.
    """
    lists = [
        [row for bucket in chosen for row in range(int(offsets[bucket]), int(offsets[bucket + 1]))]
        for chosen in buckets.tolist()
    ]
    rows = torch.full((len(lists), max(map(len, lists), default=0)), -1, dtype=torch.int64)
    for i, own in enumerate(lists):
        rows[i, : len(own)] = torch.tensor(own, dtype=torch.int64)
    return rows.to(buckets.device)


def rerank(queries: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the exact inner product of each query with each of its own candidates.

    Args:
        queries: [q, d].
        keys: [n, d], any floating type; products are summed in the queries' type.
        rows: [q, c] int64, rows of ``keys``; -1 is no candidate.

    Returns:
        [q, c], higher is nearer, ``-inf`` where there is no candidate.
    """
    scores = torch.full(rows.shape, -torch.inf, dtype=queries.dtype, device=queries.device)
    for i, query in enumerate(queries):
        for place, row in enumerate(rows[i].tolist()):
            if row >= 0:
                scores[i, place] = (query * keys[row].to(query.dtype)).sum()
    return scores
