"""Rotary position embedding (RoPE): rotating queries and keys to positions, and back.

Su et al., arXiv 2104.09864: the vector ``x`` at position ``m`` becomes ``R(m) x``, where ``R(m)`` rotates the pair of
components ``(i, i + head_dim / 2)`` by ``m * theta_i``. As ``R(m)^T R(n) = R(n - m)``, the score of a query at position m
and a key at position n depends on the distance m - n alone. ``families.py`` gives a model's frequencies ``theta``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(vectors: Tensor, positions: Tensor, theta: Tensor) -> Tensor:
    """Rotate vectors by ``R(positions)``; negative positions undo a rotation.

    Args:
        vectors: ``[..., tokens, head_dim]``.
        positions: in tokens, broadcastable to ``[..., tokens]``.
        theta: ``[head_dim / 2]``, radians per token.

    Returns:
        float32, shaped like ``vectors``.
    """
    angles = positions.to(theta.device, torch.float32)[..., None] * theta
    cosine, sine = angles.cos(), angles.sin()
    first, second = vectors.float().chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
