"""Storing keys and values in fewer bits.

Unrotated keys have a few channels that are large in every token, so the keys of a chunk share one scale per channel.
Values have no such channels, so each token has its own scale (KIVI, arXiv 2402.02750). Keys are quantised before their
rotation, as in KVQuant (arXiv 2401.18079).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Precision = Literal["bf16", "int8", "int4"]
_LARGEST_CODE = {"int8": 127.0, "int4": 7.0}


def quantize(tensor: Tensor, precision: Precision, dim: int) -> dict[str, Tensor]:
    """Return the tensors to store for keys or values.

    Args:
        tensor: ``[tokens, layers, kv_heads, head_dim]``.
        precision: bf16 rounds without a scale.
        dim: the dimension that shares a scale: 0 for keys (one scale per channel), -1 for values (one per token).

    Returns:
        ``codes``, halved in the last dimension for int4, and ``scale`` (float16) unless the precision is bf16.
    """
    if precision == "bf16":
        return {"codes": tensor.to(torch.bfloat16).contiguous()}
    largest = _LARGEST_CODE[precision]
    scale = (tensor.float().abs().amax(dim, keepdim=True) / largest).clamp_min(1e-8).to(torch.float16)
    scale = scale.clamp_min(torch.finfo(torch.float16).smallest_normal)
    codes = (tensor.float() / scale.float()).round().clamp(-largest, largest).to(torch.int8)
    if precision == "int4":
        low, high = codes.chunk(2, -1)
        codes = (low & 0x0F) | (high << 4)
    return {"codes": codes.contiguous(), "scale": scale.contiguous()}


def dequantize(codes: Tensor, scale: Tensor | None, precision: Precision) -> Tensor:
    """Invert ``quantize`` up to half a step of the scale.

    Args:
        codes: what ``quantize`` returned.
        scale: likewise; None for bf16.
        precision: of ``codes``.

    Returns:
        bfloat16 ``[tokens, layers, kv_heads, head_dim]``.
    """
    if precision == "bf16" or scale is None:
        return codes
    if precision == "int4":
        # Shifted up and down again, so that the sign of the low half is kept.
        codes = torch.cat([(codes << 4) >> 4, codes >> 4], -1)
    return (codes.float() * scale.float()).to(torch.bfloat16)
