"""Storing keys and values in fewer bits.

Unrotated keys have a few channels that are large in every token, so keys share a scale for each channel of a piece;
values have no such channels, so each token has a scale of its own (KIVI, arXiv 2402.02750; that keys should be
quantised before rotation is from KVQuant, arXiv 2401.18079).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Precision = Literal["bf16", "int8", "int4"]
_LARGEST = {"int8": 127.0, "int4": 7.0}


def encode(tensor: Tensor, precision: Precision, dim: int) -> dict[str, Tensor]:
    """Return what is stored of ``[tokens, layers, kv_heads, head_dim]``: ``codes``, and ``scale`` if quantised.

    Args:
        dim: the dimension that shares a scale: 0 for keys (a scale a channel), -1 for values (a scale a token).
    """
    if precision == "bf16":
        return {"codes": tensor.to(torch.bfloat16).contiguous()}
    most = _LARGEST[precision]
    scale = (tensor.float().abs().amax(dim, keepdim=True) / most).clamp_min(1e-8).to(torch.float16)
    scale = scale.clamp_min(torch.finfo(torch.float16).smallest_normal)
    codes = (tensor.float() / scale.float()).round().clamp(-most, most).to(torch.int8)
    if precision == "int4":
        low, high = codes.chunk(2, -1)
        codes = (low & 0x0F) | (high << 4)
    return {"codes": codes.contiguous(), "scale": scale.contiguous()}


def decode(codes: Tensor, scale: Tensor | None, precision: Precision) -> Tensor:
    """Undo ``encode``, to bfloat16, up to half a step of the scale."""
    if precision == "bf16" or scale is None:
        return codes
    if precision == "int4":
        # Shifted up and down again, so that the sign of the low half is kept.
        codes = torch.cat([(codes << 4) >> 4, codes >> 4], -1)
    return (codes.float() * scale.float()).to(torch.bfloat16)
