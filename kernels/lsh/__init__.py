"""Locality-sensitive hashing of attention keys: search by inner product that compares a share of the keys only.

`LSHIndex` is the index. `hash_codes` and `rerank` are its numeric operations; `kernels.switch` chooses their version.
"""

from __future__ import annotations

from torch import Tensor, float32

from memagent.kernels.lsh import eager
from memagent.kernels.lsh.index import Hits, LSHIndex
from memagent.kernels.switch import use_fused

__all__ = ["Hits", "LSHIndex", "hash_codes", "rerank"]


def hash_codes(vectors: Tensor, planes: Tensor) -> Tensor:
    """Return the bucket numbers of vectors: bit j is set where the projection on plane j is positive.

    Signed projections, Charikar 2002, "Similarity estimation techniques from rounding algorithms".

    Args:
        vectors: [n, dim], floating, already centred.
        planes: [dim, bits], normals of the hyperplanes.

    Returns:
        [n] int64, each below ``2 ** bits``.

    Raises:
        ValueError: shapes that do not fit, or more than 62 bits.
    """
    if vectors.dim() != 2 or planes.dim() != 2 or vectors.shape[1] != planes.shape[0]:
        raise ValueError(
            f"Expected vectors [n, dim] and planes [dim, bits], got {list(vectors.shape)} and {list(planes.shape)}."
        )
    if planes.shape[1] > 62:
        raise ValueError(f"Expected at most 62 bits, which an int64 holds, got {planes.shape[1]}.")
    if planes.dtype == float32 and use_fused(vectors):
        from memagent.kernels.lsh import fused

        return fused.hash_codes(vectors, planes)
    return eager.hash_codes(vectors, planes)


def rerank(queries: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
    """Return the exact inner product of each query with each of its own candidates.

    Args:
        queries: [q, dim], float32 or float64; products are summed in this type.
        keys: [n, dim], floating.
        rows: [q, c] int64, rows of ``keys``; -1 is no candidate.

    Returns:
        [q, c] in the queries' type, higher is nearer, ``-inf`` where there is no candidate.

    Raises:
        ValueError: shapes that do not fit. Rows beyond the keys are not checked.
    """
    shapes = [list(tensor.shape) for tensor in (queries, keys, rows)]
    if [len(shape) for shape in shapes] != [2, 2, 2] or (shapes[0][1], shapes[0][0]) != (
        shapes[1][1],
        shapes[2][0],
    ):
        raise ValueError(
            f"Expected queries [q, dim], keys [n, dim] and rows [q, c], got {', '.join(map(str, shapes))}."
        )
    if queries.dtype == float32 and use_fused(keys):
        from memagent.kernels.lsh import fused

        return fused.rerank(queries, keys, rows)
    return eager.rerank(queries, keys, rows)
