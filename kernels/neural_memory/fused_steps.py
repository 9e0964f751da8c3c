"""The Triton functions of the fused neural memory: the steps of `steps`, on blocks that stay on the chip.

Sizes: C tokens of a chunk; I, H and O the sizes of keys, of the hidden layer and of values. B before a size is the block that
holds it, padded with zeros. With TOKEN (``update="token"``), the memory takes a step at every token, and each query reads it
after the step of its own token. Without TOKEN (``update="chunk"``), it takes one step at a chunk's end, and all queries read it
as it is at the chunk's start.
"""
# ruff: noqa: N803 - sizes are upper case inside kernels
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]


@triton.jit
def dot(a, b):
    """Multiply two matrices, in full precision."""
    # "ieee": TF32 would cost float32 half its digits.
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def load(p, o_r, o_c, R, C):
    """Load rows ``o_r`` below R and columns ``o_c`` below C of a matrix with C columns; zeros beyond."""
    return tl.load(
        p + o_r[:, None] * C + o_c[None, :], mask=(o_r[:, None] < R) & (o_c[None, :] < C), other=0.0
    )


@triton.jit
def store(p, b, o_r, o_c, R, C):
    """Store rows ``o_r`` below R and columns ``o_c`` below C of a matrix with C columns."""
    tl.store(p + o_r[:, None] * C + o_c[None, :], b, mask=(o_r[:, None] < R) & (o_c[None, :] < C))


@triton.jit
def load_memory(p, o_i, o_h, o_o, I, H, O):
    """Load the weights of both layers and their momentum, which are stored in this order."""
    b_w1 = load(p, o_i, o_h, I, H)
    b_w2 = load(p + I * H, o_h, o_o, H, O)
    b_s1 = load(p + I * H + H * O, o_i, o_h, I, H)
    b_s2 = load(p + 2 * I * H + H * O, o_h, o_o, H, O)
    return b_w1, b_w2, b_s1, b_s2


@triton.jit
def store_memory(p, b_w1, b_w2, b_s1, b_s2, o_i, o_h, o_o, I, H, O):
    """Store the weights of both layers and their momentum, in this order."""
    store(p, b_w1, o_i, o_h, I, H)
    store(p + I * H, b_w2, o_h, o_o, H, O)
    store(p + I * H + H * O, b_s1, o_i, o_h, I, H)
    store(p + 2 * I * H + H * O, b_s2, o_h, o_o, H, O)


@triton.jit
def gelu(z):
    """Return gelu and its first two derivatives."""
    cdf = 0.5 + 0.5 * tl.erf(z * 0.7071067811865476)
    pdf = 0.3989422804014327 * tl.exp(-0.5 * z * z)
    return z * cdf, cdf + z * pdf, pdf * (2.0 - z * z)


@triton.jit
def gradient_factors(b_k, b_v, b_t, b_w1, b_w2):
    """Return hidden activations, gelu's first two derivatives, the loss's gradient by M(k), and both layers' errors."""
    b_x, b_slope, b_curvature = gelu(dot(b_k, b_w1))
    b_e = 2.0 * (dot(b_x, b_w2) - b_v)
    b_d2 = b_t[:, None] * b_e
    b_d1 = dot(b_d2, tl.trans(b_w2)) * b_slope
    return b_x, b_slope, b_curvature, b_e, b_d1, b_d2


@triton.jit
def read_block(b_y, b_w, b_s, b_x, b_d, b_mix, b_rw, b_rs, TOKEN: tl.constexpr):
    """Apply one layer, [BC, B_in] to [BC, B_out], as it is at each query; without TOKEN as it is at the block's start."""
    b_u = dot(b_y, b_w)
    if TOKEN:
        b_u = b_u * b_rw[:, None] + dot(b_y, b_s) * b_rs[:, None]
        b_u -= dot(dot(b_y, tl.trans(b_x)) * b_mix, b_d)
    return b_u


@triton.jit
def write_block(b_w, b_s, b_x, b_d, keep, gain, decay, b_ww, b_ws, TOKEN: tl.constexpr):
    """Return the weights and momentum of one layer after a block's gradient steps."""
    if TOKEN:
        b_new = keep * b_w + gain * b_s - dot(tl.trans(b_x * b_ww[:, None]), b_d)
        b_s = decay * b_s - dot(tl.trans(b_x * b_ws[:, None]), b_d)
    else:
        b_s = decay * b_s - dot(tl.trans(b_x), b_d)
        b_new = keep * b_w + b_s
    return b_new, b_s


@triton.jit
def read_adjoint(
    b_g, b_y, b_w, b_s, b_x, b_d, b_mix, b_rw, b_rs, b_gw, b_gs, b_gx, b_gd, TOKEN: tl.constexpr
):
    """Return the gradients by y, mix and read, and those by weights, momentum, inputs and errors with their part added."""
    b_gy = dot(b_g, tl.trans(b_w))
    b_gmix = b_mix
    b_grw = b_rw
    b_grs = b_rs
    if TOKEN:
        b_near = dot(b_y, tl.trans(b_x))
        b_gnear = -dot(b_g, tl.trans(b_d))
        b_gmix = b_gnear * b_near
        b_gd -= dot(tl.trans(b_near * b_mix), b_g)
        b_gnear = b_gnear * b_mix
        b_gx += dot(tl.trans(b_gnear), b_y)
        b_through = dot(b_g, tl.trans(b_s))
        b_grw = tl.sum(b_gy * b_y, 1)
        b_grs = tl.sum(b_through * b_y, 1)
        b_gy = b_gy * b_rw[:, None] + b_through * b_rs[:, None] + dot(b_gnear, b_x)
        b_gw += dot(tl.trans(b_y * b_rw[:, None]), b_g)
        b_gs += dot(tl.trans(b_y * b_rs[:, None]), b_g)
    else:
        b_gw += dot(tl.trans(b_y), b_g)
    return b_gy, b_gmix, b_grw, b_grs, b_gw, b_gs, b_gx, b_gd


@triton.jit
def write_adjoint(b_w, b_s, b_x, b_d, keep, gain, decay, b_ww, b_ws, b_gw, b_gs, TOKEN: tl.constexpr):
    """Return the gradients by inputs, errors, write and carry, then those by the weights and momentum before the write."""
    b_gww = b_ww
    b_gws = b_ws
    g_keep = tl.sum(b_gw * b_w)
    g_gain = tl.sum(b_gw * b_s)
    if TOKEN:
        b_tw = dot(b_d, tl.trans(b_gw))
        b_ts = dot(b_d, tl.trans(b_gs))
        b_gww = -tl.sum(b_tw * b_x, 1)
        b_gws = -tl.sum(b_ts * b_x, 1)
        b_gx = -(b_tw * b_ww[:, None] + b_ts * b_ws[:, None])
        b_gd = -(dot(b_x * b_ww[:, None], b_gw) + dot(b_x * b_ws[:, None], b_gs))
        g_decay = tl.sum(b_gs * b_s)
        b_gs = decay * b_gs + gain * b_gw
    else:
        b_gs += b_gw
        g_decay = tl.sum(b_gs * b_s)
        g_gain = 0.0
        b_gx = -dot(b_d, tl.trans(b_gs))
        b_gd = -dot(b_x, b_gs)
        b_gs = decay * b_gs
    return b_gx, b_gd, b_gww, b_gws, g_keep, g_gain, g_decay, keep * b_gw, b_gs


@triton.jit
def load_keys(k, v, theta, start, o_c, o_i, o_o, TK, C, I, O):
    """Load keys, values and theta of a chunk; ``k``, ``v`` and ``theta`` point to the sequence's first token."""
    rows = tl.minimum(C, TK - start)
    b_k = load(k + start * I, o_c, o_i, rows, I)  # [BC, BI]
    b_v = load(v + start * O, o_c, o_o, rows, O)  # [BC, BO]
    b_t = tl.load(theta + start + o_c, mask=o_c < rows, other=0.0)  # [BC]
    return b_k, b_v, b_t


@triton.jit
def load_read(mix, read, i_j, o_c, C, TOKEN: tl.constexpr, BC: tl.constexpr):
    """Load the coefficients of reading, ``mix`` [BC, BC] and both columns of ``read`` [BC]; zeros without TOKEN."""
    b_mix = tl.zeros([BC, BC], tl.float32)
    b_rw = tl.zeros([BC], tl.float32)
    b_rs = b_rw
    if TOKEN:
        b_mix = load(mix + i_j * C * C, o_c, o_c, C, C)
        b_rw = tl.load(read + i_j * C * 2 + o_c * 2, mask=o_c < C, other=0.0)
        b_rs = tl.load(read + i_j * C * 2 + o_c * 2 + 1, mask=o_c < C, other=0.0)
    return b_mix, b_rw, b_rs


@triton.jit
def load_write(carry, write, i_j, o_c, C, TOKEN: tl.constexpr, BC: tl.constexpr):
    """Load the factors of weights and momentum, and both rows of ``write`` [BC]; zeros for these without TOKEN."""
    keep = tl.load(carry + i_j * 4)
    gain = tl.load(carry + i_j * 4 + 1)
    decay = tl.load(carry + i_j * 4 + 3)
    b_ww = tl.zeros([BC], tl.float32)
    b_ws = b_ww
    if TOKEN:
        b_ww = tl.load(write + i_j * 2 * C + o_c, mask=o_c < C, other=0.0)
        b_ws = tl.load(write + i_j * 2 * C + C + o_c, mask=o_c < C, other=0.0)
    return keep, gain, decay, b_ww, b_ws
