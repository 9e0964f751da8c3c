"""Memory attention as one Triton kernel: local keys, then memory keys, under one running maximum and sum.

FlashAttention's forward pass (Dao et al. 2022, https://arxiv.org/abs/2205.14135) over two sets of keys: half-way
the queries are exchanged for the memory queries, and the softmax goes on. Forward only, every key of the memory.
"""
# ruff: noqa: N803, N806 - sizes are upper case inside kernels
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor


@triton.jit
def _attend(
    b_q, p_k, p_v, p_mask, s_mask, b_m, b_l, b_o, scaling, o_d, last, N, D,
    MASK: tl.constexpr, IS_CAUSAL: tl.constexpr, BQ: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Let ``N`` keys enter the running maximum, sum and output; ``last`` [BQ] is the last that each row sees.

    ``MASK`` says what ``p_mask`` points to: nothing (0), for each row booleans (1) or numbers to add (2), or
    one number to add for each key, whatever the row (3).
    """
    stop = N
    if IS_CAUSAL:
        stop = tl.minimum(N, tl.max(last, 0) + 1)
    for i_n in range(0, stop, BN):
        o_n = i_n + tl.arange(0, BN)
        m_k = (o_n[:, None] < N) & (o_d[None, :] < D)
        o_k = o_n.to(tl.int64)[:, None] * D + o_d[None, :]
        b_k = tl.load(p_k + o_k, mask=m_k, other=0.0)  # [BN, BD]
        b_v = tl.load(p_v + o_k, mask=m_k, other=0.0)  # [BN, BD]

        # "ieee": TF32 would cost float32 half its digits.
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scaling  # [BQ, BN]
        m_s = (o_n[None, :] < N) & (o_n[None, :] <= last[:, None])
        if MASK == 1:
            m_s = m_s & (tl.load(p_mask + o_n.to(tl.int64)[None, :] * s_mask, mask=m_s, other=0) != 0)
        if MASK == 2:
            b_s += tl.load(p_mask + o_n.to(tl.int64)[None, :] * s_mask, mask=m_s, other=0.0).to(tl.float32)
        if MASK == 3:
            b_s += tl.load(p_mask + o_n, mask=o_n < N, other=0.0).to(tl.float32)[None, :]
        b_s = tl.where(m_s, b_s, float("-inf"))

        b_top = tl.maximum(b_m, tl.max(b_s, 1))
        # A row that has seen no key yet has the maximum -inf, and -inf - -inf is no number.
        b_safe = tl.where(b_top == float("-inf"), 0.0, b_top)
        b_p = tl.exp(b_s - b_safe[:, None])
        b_decay = tl.exp(b_m - b_safe)
        b_l = b_l * b_decay + tl.sum(b_p, 1)
        b_o = b_o * b_decay[:, None] + tl.dot(b_p.to(b_v.dtype), b_v, input_precision="ieee")
        b_m = b_top
    return b_m, b_l, b_o


@triton.jit
def memory_attention_fwd_kernel(
    q, k, v, mq, mk, mv, mask, bias, o, scaling,
    s_mb, s_bb, s_kb, s_mask_b, s_mask_h, s_mask_q, s_mask_n,
    H, G, Q, N, M, D,
    MASK: tl.constexpr, BIAS: tl.constexpr, IS_CAUSAL: tl.constexpr,
    BQ: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One program for each block of ``BQ`` queries of each head; ``G`` of the ``H`` heads share a key head."""
    i_q, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // H, i_bh % H
    i_kv = i_h // G

    o_q = i_q * BQ + tl.arange(0, BQ)
    o_d = tl.arange(0, BD)
    m_q = (o_q[:, None] < Q) & (o_d[None, :] < D)
    p_q = i_bh * Q * D + o_q[:, None] * D + o_d[None, :]
    p_mask = mask + i_b * s_mask_b + i_h * s_mask_h + o_q.to(tl.int64)[:, None] * s_mask_q
    # Rows beyond the last query see nothing, so that nothing is read for them.
    last = tl.where(o_q < Q, o_q + N - Q if IS_CAUSAL else N - 1, -1)

    b_m = tl.full([BQ], float("-inf"), tl.float32)
    b_l = tl.zeros([BQ], tl.float32)
    b_o = tl.zeros([BQ, BD], tl.float32)
    b_q = tl.load(q + p_q, mask=m_q, other=0.0)  # [BQ, BD]
    o_k = i_b * s_kb + i_kv * N * D
    b_m, b_l, b_o = _attend(
        b_q, k + o_k, v + o_k, p_mask, s_mask_n, b_m, b_l, b_o, scaling, o_d,
        last, N, D, MASK, IS_CAUSAL, BQ, BN,
    )  # fmt: skip
    b_mq = tl.load(mq + p_q, mask=m_q, other=0.0)  # [BQ, BD]
    o_mk = i_b * s_mb + i_kv * M * D
    b_m, b_l, b_o = _attend(
        b_mq, mk + o_mk, mv + o_mk, bias + i_b * s_bb, 0, b_m, b_l, b_o, scaling, o_d,
        tl.where(o_q < Q, M - 1, -1), M, D, BIAS, False, BQ, BN,
    )  # fmt: skip

    # A query that sees no key has the sum 0 and gets zeros.
    b_o = b_o / tl.where(b_l == 0, 1.0, b_l)[:, None]
    tl.store(o + p_q, b_o.to(o.dtype.element_ty), mask=m_q)


def memory_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    memory_query: Tensor,
    memory_key: Tensor,
    memory_value: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scaling: float,
    memory_bias: Tensor | None = None,
) -> Tensor:
    """Attention over local and memory keys, as `memagent.kernels.memory_attention` describes it.

    For float32, float16 and bfloat16; ``mask`` is None or has four dimensions. No gradients, no ``top_k``.
    """
    batch, heads, q_len, head_dim = query.shape
    kv_heads, kv_len = key.shape[1:3]
    memory_len = memory_key.shape[2]
    tensors = [t.contiguous() for t in (query, key, value, memory_query, memory_key, memory_value)]
    output = torch.empty_like(tensors[0])
    kind, masked = 0, tensors[0][:, :, :, :1]  # without a mask the kernel ignores the pointer
    if mask is not None:
        kind = 1 if mask.dtype == torch.bool else 2
        masked = (mask.view(torch.uint8) if kind == 1 else mask).expand(batch, heads, q_len, kv_len)
    bias = masked if memory_bias is None else memory_bias.contiguous()  # likewise
    BD = max(16, triton.next_power_of_2(head_dim))
    BQ = 16 if q_len <= 16 or BD > 128 else 64
    # A stride of 0 lets all samples read the same memory, or the same bias.
    memory_stride = 0 if memory_key.shape[0] == 1 else memory_key[0].numel()
    bias_stride = memory_len if memory_bias is not None and memory_bias.numel() > memory_len else 0
    with torch.cuda.device_of(query):  # Triton launches on the current device, whatever the tensors are on
        memory_attention_fwd_kernel[(triton.cdiv(q_len, BQ), batch * heads)](
            *tensors, masked, bias, output, scaling,
            memory_stride, bias_stride, kv_heads * kv_len * head_dim, *masked.stride(),
            heads, heads // kv_heads, q_len, kv_len, memory_len, head_dim,
            MASK=kind, BIAS=0 if memory_bias is None else 3, IS_CAUSAL=is_causal,
            BQ=BQ, BN=64 if BD <= 64 else 32, BD=BD,
            num_stages=1 if query.dtype == torch.float32 else 2,  # two stages of float32 would not fit
        )  # fmt: skip
    return output
