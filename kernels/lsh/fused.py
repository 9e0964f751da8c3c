"""The two operations that are worth a GPU kernel: hashing without storing projections, reranking without gathering keys.

``naive.py`` specifies them. Dimension letters as there; capitals are sizes of blocks.
"""

# ruff: noqa: N803, N806 - sizes are upper case inside kernels
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]


@triton.jit
def hash_kernel(
    vectors, planes, codes, n, d, b, BN: tl.constexpr, BD: tl.constexpr, BB: tl.constexpr
):  # fmt: skip
    """Hash ``BN`` vectors per program: bit j of a code is set where the projection on plane j is positive."""
    o_n = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    o_d, o_b = tl.arange(0, BD), tl.arange(0, BB)
    m_n, m_d, m_b = o_n < n, o_d < d, o_b < b

    p_v = vectors + o_n[:, None] * d + o_d[None, :]
    p_p = planes + o_d[:, None] * b + o_b[None, :]
    b_v = tl.load(p_v, mask=m_n[:, None] & m_d[None, :], other=0.0).to(tl.float32)  # [BN, BD]
    b_p = tl.load(p_p, mask=m_d[:, None] & m_b[None, :], other=0.0)  # [BD, BB]

    # TF32 would flip the bits of keys that lie near a plane.
    positive = tl.dot(b_v, b_p, input_precision="ieee") > 0  # [BN, BB], false in the padding
    b_c = tl.sum(positive.to(tl.int64) << o_b[None, :].to(tl.int64), axis=1)
    tl.store(codes + o_n, b_c, mask=m_n)


@triton.jit
def rerank_kernel(queries, keys, rows, scores, c, d, BC: tl.constexpr, BD: tl.constexpr):
    """Score ``BC`` candidates of one query per program."""
    i_c, i_q = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_c, o_d = i_c * BC + tl.arange(0, BC), tl.arange(0, BD)
    m_c, m_d = o_c < c, o_d < d

    b_r = tl.load(rows + i_q * c + o_c, mask=m_c, other=-1)  # [BC] int64
    m_r = b_r >= 0
    b_q = tl.load(queries + i_q * d + o_d, mask=m_d, other=0.0)
    b_k = tl.load(keys + b_r[:, None] * d + o_d[None, :], mask=m_r[:, None] & m_d[None, :], other=0.0)

    b_s = tl.sum(b_k.to(tl.float32) * b_q[None, :], axis=1)
    tl.store(scores + i_q * c + o_c, tl.where(m_r, b_s, float("-inf")), mask=m_c)


def hash_codes(vectors: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """See `naive.hash_codes`; planes are float32."""
    (n, d), b = vectors.shape, planes.shape[1]
    codes = torch.empty(n, dtype=torch.int64, device=vectors.device)
    if n:
        BN, BD, BB = 64, max(16, triton.next_power_of_2(d)), max(16, triton.next_power_of_2(b))
        hash_kernel[(triton.cdiv(n, BN),)](
            vectors.contiguous(), planes.contiguous(), codes, n, d, b, BN, BD, BB
        )
    return codes


def rerank(queries: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """See `naive.rerank`; queries are float32."""
    (q, d), c = queries.shape, rows.shape[1]
    scores = torch.empty(q, c, dtype=torch.float32, device=queries.device)
    if scores.numel():
        BC, BD = 64, triton.next_power_of_2(d)
        rerank_kernel[(triton.cdiv(c, BC), q)](
            queries.contiguous(), keys.contiguous(), rows.contiguous(), scores, c, d, BC, BD
        )
    return scores
