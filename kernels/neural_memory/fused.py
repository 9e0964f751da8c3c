"""The neural memory as one Triton program for each sample and head, which keeps weights and momentum on the chip.

It takes float32 memories of two layers that are small enough. One program does for a whole sequence, chunk after chunk, what
`steps` does for a block; dimension letters and coefficients are the same. The forward pass stores the memory at the start of
every ``SEG`` chunks. The backward pass runs each such segment forward again, then backward.
"""
# ruff: noqa: N803, N806 - sizes are upper case inside kernels
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor
from torch.autograd.function import once_differentiable

from memagent.kernels.neural_memory.fused_steps import (
    dot,
    gelu,
    gradient_factors,
    load,
    load_keys,
    load_memory,
    load_read,
    load_write,
    read_adjoint,
    read_block,
    store,
    store_memory,
    write_adjoint,
    write_block,
)
from memagent.kernels.neural_memory.layout import sequences
from memagent.kernels.neural_memory.state import NeuralMemoryState
from memagent.kernels.neural_memory.steps import Memory

# Numbers of a memory times tokens of a chunk, padded to blocks. Backward, the programs take 207 KiB of shared memory
# at this limit (64 x 64 x 64, chunks of 16), of the 227 that an H100 has.
LARGEST = 2**18
LARGEST_CHUNK = 64  # the products of a chunk's tokens grow with its square


def fits(state: NeuralMemoryState, chunk_size: int) -> bool:
    """Return whether a memory of two float32 layers and its chunks are small enough for the chip."""
    weights = state.weights
    if len(weights) != 2 or weights[0].dtype != torch.float32 or chunk_size > LARGEST_CHUNK:
        return False
    i, h, o = (_padded(size) for size in (*weights[0].shape[2:], weights[1].shape[3]))
    return 2 * (i * h + h * o) * _padded(chunk_size) <= LARGEST


def neural_memory(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    theta: Tensor,
    eta: Tensor,
    alpha: Tensor,
    state: NeuralMemoryState,
    *,
    chunk_size: int,
    update: str = "token",
) -> tuple[Tensor, NeuralMemoryState]:
    """Write and read tokens as `memagent.kernels.neural_memory.neural_memory` describes, for states that `fits` accepts."""
    layout = sequences(query, key, value, (theta, eta, alpha), state, chunk_size, chunk_size, update)
    tokens = (layout.query, layout.key, layout.value, layout.theta, *layout.coefficients)
    output, *memory = _Recurrence.apply(chunk_size, *tokens, *layout.memory.weights, *layout.memory.momentum)
    return layout.results(output, Memory(memory[:2], memory[2:]), query)


@triton.jit
def neural_memory_fwd_kernel(
    q, k, v, theta, mix, read, carry, write, memory, o, after, starts,
    TQ, TK, C, J, SEG, SEGS, I, H, O,
    TOKEN: tl.constexpr, KEEP: tl.constexpr,
    BC: tl.constexpr, BI: tl.constexpr, BH: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """Write and read one memory's tokens, chunk by chunk: a program for each sample and head.

    With KEEP, the memory at the start of every SEG chunks is stored in ``starts``, for the backward pass.
    """
    i_n = tl.program_id(0).to(tl.int64)
    o_c, o_i, o_h, o_o = tl.arange(0, BC), tl.arange(0, BI), tl.arange(0, BH), tl.arange(0, BO)
    P = 2 * (I * H + H * O)
    b_w1, b_w2, b_s1, b_s2 = load_memory(memory + i_n * P, o_i, o_h, o_o, I, H, O)
    for i_c in range(tl.cdiv(TQ, C)):
        start = i_c * C
        if KEEP and i_c % SEG == 0:
            p_m = starts + (i_n * SEGS + i_c // SEG) * P
            store_memory(p_m, b_w1, b_w2, b_s1, b_s2, o_i, o_h, o_o, I, H, O)
        b_k, b_v, b_t = load_keys(
            k + i_n * TK * I, v + i_n * TK * O, theta + i_n * TK, start, o_c, o_i, o_o, TK, C, I, O
        )
        b_x, _, _, _, b_d1, b_d2 = gradient_factors(b_k, b_v, b_t, b_w1, b_w2)

        b_mix, b_rw, b_rs = load_read(mix, read, i_n * J + i_c, o_c, C, TOKEN, BC)
        rows = tl.minimum(C, TQ - start)
        b_q = load(q + (i_n * TQ + start) * I, o_c, o_i, rows, I)  # [BC, BI]
        b_y, _, _ = gelu(read_block(b_q, b_w1, b_s1, b_k, b_d1, b_mix, b_rw, b_rs, TOKEN))
        b_o = read_block(b_y, b_w2, b_s2, b_x, b_d2, b_mix, b_rw, b_rs, TOKEN)
        store(o + (i_n * TQ + start) * O, b_o, o_c, o_o, rows, O)

        if start + C <= TK:
            keep, gain, decay, b_ww, b_ws = load_write(carry, write, i_n * J + i_c, o_c, C, TOKEN, BC)
            b_w1, b_s1 = write_block(b_w1, b_s1, b_k, b_d1, keep, gain, decay, b_ww, b_ws, TOKEN)
            b_w2, b_s2 = write_block(b_w2, b_s2, b_x, b_d2, keep, gain, decay, b_ww, b_ws, TOKEN)
    store_memory(after + i_n * P, b_w1, b_w2, b_s1, b_s2, o_i, o_h, o_o, I, H, O)


@triton.jit
def neural_memory_bwd_kernel(
    q, k, v, theta, mix, read, carry, write, starts, scratch,
    g_o, g_memory, g_q, g_k, g_v, g_theta, g_mix, g_read, g_carry, g_write,
    TQ, TK, C, J, SEG, SEGS, I, H, O,
    TOKEN: tl.constexpr,
    BC: tl.constexpr, BI: tl.constexpr, BH: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """``g_memory`` holds the gradients by the final memory, then those by the initial memory."""
    i_n = tl.program_id(0).to(tl.int64)
    o_c, o_i, o_h, o_o = tl.arange(0, BC), tl.arange(0, BI), tl.arange(0, BH), tl.arange(0, BO)
    P = 2 * (I * H + H * O)
    p_k, p_v, p_t = k + i_n * TK * I, v + i_n * TK * O, theta + i_n * TK
    b_gw1, b_gw2, b_gs1, b_gs2 = load_memory(g_memory + i_n * P, o_i, o_h, o_o, I, H, O)
    chunks = tl.cdiv(TQ, C)
    for i_back in range(SEGS):
        first = (SEGS - 1 - i_back) * SEG
        count = tl.minimum(SEG, chunks - first)

        # Forward again: the memory at the start of every chunk of the segment.
        b_w1, b_w2, b_s1, b_s2 = load_memory(starts + (i_n * SEGS + first // SEG) * P, o_i, o_h, o_o, I, H, O)
        for i_s in range(count):
            i_c = first + i_s
            p_m = scratch + (i_n * SEG + i_s) * P
            store_memory(p_m, b_w1, b_w2, b_s1, b_s2, o_i, o_h, o_o, I, H, O)
            if i_c * C + C <= TK:
                b_k, b_v, b_t = load_keys(p_k, p_v, p_t, i_c * C, o_c, o_i, o_o, TK, C, I, O)
                b_x, b_slope, b_curvature, b_e, b_d1, b_d2 = gradient_factors(b_k, b_v, b_t, b_w1, b_w2)
                keep, gain, decay, b_ww, b_ws = load_write(carry, write, i_n * J + i_c, o_c, C, TOKEN, BC)
                b_w1, b_s1 = write_block(b_w1, b_s1, b_k, b_d1, keep, gain, decay, b_ww, b_ws, TOKEN)
                b_w2, b_s2 = write_block(b_w2, b_s2, b_x, b_d2, keep, gain, decay, b_ww, b_ws, TOKEN)
        tl.debug_barrier()  # threads read what others wrote to the scratch

        for i_s in range(count):
            i_c = first + count - 1 - i_s
            start, i_j = i_c * C, i_n * J + i_c
            p_m = scratch + (i_n * SEG + i_c - first) * P
            b_w1, b_w2, b_s1, b_s2 = load_memory(p_m, o_i, o_h, o_o, I, H, O)
            b_k, b_v, b_t = load_keys(p_k, p_v, p_t, start, o_c, o_i, o_o, TK, C, I, O)
            b_x, b_slope, b_curvature, b_e, b_d1, b_d2 = gradient_factors(b_k, b_v, b_t, b_w1, b_w2)

            # Write.
            b_gk = tl.zeros([BC, BI], tl.float32)
            b_gx = tl.zeros([BC, BH], tl.float32)
            b_gd1 = tl.zeros([BC, BH], tl.float32)
            b_gd2 = tl.zeros([BC, BO], tl.float32)
            if start + C <= TK:
                keep, gain, decay, b_ww, b_ws = load_write(carry, write, i_j, o_c, C, TOKEN, BC)
                b_gk, b_gd1, b_gww, b_gws, g_keep, g_gain, g_decay, b_gw1, b_gs1 = write_adjoint(
                    b_w1, b_s1, b_k, b_d1, keep, gain, decay, b_ww, b_ws, b_gw1, b_gs1, TOKEN
                )
                b_gx, b_gd2, b_gww2, b_gws2, g_keep2, g_gain2, g_decay2, b_gw2, b_gs2 = write_adjoint(
                    b_w2, b_s2, b_x, b_d2, keep, gain, decay, b_ww, b_ws, b_gw2, b_gs2, TOKEN
                )
                tl.store(g_carry + i_j * 4, g_keep + g_keep2)
                tl.store(g_carry + i_j * 4 + 1, g_gain + g_gain2)
                tl.store(g_carry + i_j * 4 + 3, g_decay + g_decay2)
                if TOKEN:
                    tl.store(g_write + i_j * 2 * C + o_c, b_gww + b_gww2, mask=o_c < C)
                    tl.store(g_write + i_j * 2 * C + C + o_c, b_gws + b_gws2, mask=o_c < C)

            # Read.
            b_mix, b_rw, b_rs = load_read(mix, read, i_j, o_c, C, TOKEN, BC)
            rows = tl.minimum(C, TQ - start)
            b_q = load(q + (i_n * TQ + start) * I, o_c, o_i, rows, I)
            b_y, b_yslope, _ = gelu(read_block(b_q, b_w1, b_s1, b_k, b_d1, b_mix, b_rw, b_rs, TOKEN))
            b_go = load(g_o + (i_n * TQ + start) * O, o_c, o_o, rows, O)
            b_gy, b_gmix, b_grw, b_grs, b_gw2, b_gs2, b_gx, b_gd2 = read_adjoint(
                b_go, b_y, b_w2, b_s2, b_x, b_d2, b_mix, b_rw, b_rs, b_gw2, b_gs2, b_gx, b_gd2, TOKEN
            )
            b_gq, b_gmix1, b_grw1, b_grs1, b_gw1, b_gs1, b_gk, b_gd1 = read_adjoint(
                b_gy * b_yslope,
                b_q,
                b_w1,
                b_s1,
                b_k,
                b_d1,
                b_mix,
                b_rw,
                b_rs,
                b_gw1,
                b_gs1,
                b_gk,
                b_gd1,
                TOKEN,
            )
            store(g_q + (i_n * TQ + start) * I, b_gq, o_c, o_i, rows, I)
            if TOKEN:
                # An incomplete chunk has coefficients of its own tokens only.
                m_mix = (o_c[:, None] < rows) & (o_c[None, :] < C)
                tl.store(g_mix + i_j * C * C + o_c[:, None] * C + o_c[None, :], b_gmix + b_gmix1, mask=m_mix)
                tl.store(g_read + i_j * C * 2 + o_c * 2, b_grw + b_grw1, mask=o_c < rows)
                tl.store(g_read + i_j * C * 2 + o_c * 2 + 1, b_grs + b_grs1, mask=o_c < rows)

            # Gradient factors.
            b_gz = dot(b_d2, tl.trans(b_w2)) * b_curvature * b_gd1
            b_back = b_gd1 * b_slope
            b_gd2 += dot(b_back, b_w2)
            b_gw2 += dot(tl.trans(b_back), b_d2)
            rows = tl.minimum(C, TK - start)
            tl.store(g_theta + i_n * TK + start + o_c, tl.sum(b_gd2 * b_e, 1), mask=o_c < rows)
            b_gout = 2.0 * b_t[:, None] * b_gd2
            store(g_v + (i_n * TK + start) * O, -b_gout, o_c, o_o, rows, O)
            b_gw2 += dot(tl.trans(b_x), b_gout)
            b_gz += (b_gx + dot(b_gout, tl.trans(b_w2))) * b_slope
            b_gw1 += dot(tl.trans(b_k), b_gz)
            store(g_k + (i_n * TK + start) * I, b_gk + dot(b_gz, tl.trans(b_w1)), o_c, o_i, rows, I)
        tl.debug_barrier()  # the next segment overwrites the scratch
    store_memory(g_memory + i_n * P, b_gw1, b_gw2, b_gs1, b_gs2, o_i, o_h, o_o, I, H, O)


class _Recurrence(torch.autograd.Function):
    """The recurrence over all chunks of all memories; its tensors are those of `Sequences`."""

    @staticmethod
    def forward(
        ctx: Any,
        chunk_size: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        theta: Tensor,
        mix: Tensor | None,
        read: Tensor | None,
        carry: Tensor,
        write: Tensor | None,
        *memory: Tensor,
    ) -> tuple[Tensor, ...]:
        keep = any(ctx.needs_input_grad)
        tensors = [
            None if t is None else t.contiguous() for t in (query, key, value, theta, mix, read, carry, write)
        ]
        packed = torch.cat([part.flatten(1) for part in memory], 1)
        count, queries = query.shape[:2]
        chunks = triton.cdiv(queries, chunk_size)
        segment = isqrt(chunks) + 1
        segments = triton.cdiv(chunks, segment)
        ctx.sizes = (queries, key.shape[1], chunk_size, carry.shape[1], segment, segments)
        ctx.sizes += (key.shape[2], memory[0].shape[2], value.shape[2])
        output = value.new_empty(count, queries, value.shape[2])
        after = torch.empty_like(packed)
        starts = packed.new_empty(count, segments, packed.shape[1]) if keep else packed
        with torch.cuda.device_of(
            query
        ):  # Triton launches on the current device, whatever the tensors are on
            neural_memory_fwd_kernel[(count,)](
                *_pointers(tensors, packed), packed, output, after, starts,
                *ctx.sizes, TOKEN=mix is not None, KEEP=keep, **_blocks(ctx.sizes),
            )  # fmt: skip
        ctx.save_for_backward(*tensors, starts)
        ctx.shapes = [part.shape for part in memory]
        return output, *_unpacked(after, ctx.shapes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *grad_after: Tensor) -> tuple[Any, ...]:
        *tensors, starts = ctx.saved_tensors
        grads = [None if tensor is None else torch.zeros_like(tensor) for tensor in tensors]
        packed = torch.cat([grad.flatten(1) for grad in grad_after], 1)
        segment, token = ctx.sizes[4], tensors[4] is not None
        scratch = packed.new_empty(len(packed), segment, packed.shape[1])
        with torch.cuda.device_of(packed):
            neural_memory_bwd_kernel[(len(packed),)](
                *_pointers(tensors, packed), starts, scratch, grad_output.contiguous(), packed,
                *_pointers(grads, packed), *ctx.sizes, TOKEN=token, **_blocks(ctx.sizes),
            )  # fmt: skip
        return None, *grads, *_unpacked(packed, ctx.shapes)


def _pointers(tensors: list[Tensor | None], other: Tensor) -> list[Tensor]:
    """Replace None, where a chunk takes one step and needs no coefficients, with a tensor that the kernel does not read."""
    return [other if tensor is None else tensor for tensor in tensors]


def _unpacked(packed: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    parts = packed.split([shape[1] * shape[2] for shape in shapes], 1)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _padded(size: int) -> int:
    """Return the size of a block for so many rows or columns: a power of two, at least 16 for ``tl.dot``."""
    return max(16, int(triton.next_power_of_2(size)))


def _blocks(sizes: tuple[int, ...]) -> dict[str, int]:
    names = zip(("BC", "BI", "BH", "BO"), (sizes[2], *sizes[6:]), strict=True)
    return {name: _padded(size) for name, size in names} | {"num_warps": 8}
