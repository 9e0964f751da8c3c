"""The accumulation as one Triton program for each block of the matrix, which is read and stored once.

``naive.py`` specifies it. Dimension letters as there; capitals are sizes of blocks.
"""

# ruff: noqa: N803, N806 - sizes are upper case inside kernels
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]


@triton.jit
def accumulate_kernel(
    matrix, keys, values, p, i, o,
    SUBTRACT: tl.constexpr, SUM: tl.constexpr, BP: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr
):  # fmt: skip
    """Add the outer products of all pairs to one block of the matrix."""
    o_i = tl.program_id(0).to(tl.int64) * BI + tl.arange(0, BI)
    o_o = tl.program_id(1) * BO + tl.arange(0, BO)
    m_i, m_o = o_i < i, o_o < o

    b_sum = tl.zeros([BI, BO], dtype=SUM)
    for start in range(0, p, BP):
        o_p = (start + tl.arange(0, BP)).to(tl.int64)
        m_p = o_p < p
        b_k = tl.load(keys + o_p[None, :] * i + o_i[:, None], mask=m_i[:, None] & m_p[None, :], other=0)
        b_v = tl.load(values + o_p[:, None] * o + o_o[None, :], mask=m_p[:, None] & m_o[None, :], other=0)
        # TF32 would round the keys.
        b_sum += tl.dot(b_k, b_v, input_precision="ieee", out_dtype=SUM)

    p_c = matrix + o_i[:, None] * o + o_o[None, :]
    m_c = m_i[:, None] & m_o[None, :]
    b_c = tl.load(p_c, mask=m_c, other=0)
    tl.store(p_c, b_c - b_sum if SUBTRACT else b_c + b_sum, mask=m_c)


def accumulate(
    matrix: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, subtract: bool = False
) -> None:
    """See `naive.accumulate`."""
    (p, i), o = keys.shape, values.shape[1]
    if not matrix.numel():
        return
    BP, BI, BO = 32, 64, 64
    sums = {torch.int32: tl.int32, torch.float32: tl.float32, torch.float64: tl.float64}
    accumulate_kernel[(triton.cdiv(i, BI), triton.cdiv(o, BO))](
        matrix, keys.contiguous(), values.contiguous(), p, i, o, subtract, sums[matrix.dtype], BP, BI, BO
    )  # fmt: skip
