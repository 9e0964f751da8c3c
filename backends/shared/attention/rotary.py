"""Rotary position embedding (RoPE): turning queries and keys to positions, and back.

Su et al., arXiv 2104.09864: the vector ``x`` at position ``m`` becomes ``R(m) x``, where ``R(m)`` turns the pair
of components ``(i, i + head_dim / 2)`` by ``m * theta_i``. As ``R(m)^T R(n) = R(n - m)``, a query at position m
meets a key at position n as if they were m - n apart, whichever positions those are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memagent.backends.errors import SettingError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose attention is laid out as memory inside it expects; SmolLM and SmolLM2 are of type ``llama``."""

# The frequencies of these do not depend on how long the text is.
_STATIC = ("default", "linear", "llama3", "yarn")


def check(model: Any) -> None:
    """Refuse a model whose attention is laid out in a way not known here.

    Raises:
        SettingError: it is of another family, or its rotary frequencies change with the length of the text.
    """
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise SettingError(
            f"Memory inside attention works with models of the families {', '.join(FAMILIES)}; this one is {kind!r}. "
            "Choose another model, or --channel text with a backend that needs no local model (`memagent backends list`)."
        )
    rope = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in _STATIC:
        raise SettingError(
            f"Memory inside attention needs rotary frequencies that stay the same ({', '.join(_STATIC)}); "
            f"those of this model are {rope!r}."
        )


def frequencies(model: Any) -> Tensor:
    """Return ``theta`` of a model: float32 ``[head_dim / 2]``, radians a token."""
    frequency: Tensor = model.model.rotary_emb.inv_freq
    return frequency.float()


def rotate(vectors: Tensor, positions: Tensor, theta: Tensor) -> Tensor:
    """Turn vectors by ``R(positions)``; by ``R(-positions)`` back again.

    Args:
        vectors: ``[..., tokens, head_dim]``.
        positions: in tokens, broadcastable to ``[..., tokens]``; negative ones turn back.
        theta: ``[head_dim / 2]``, radians a token.

    Returns:
        float32, shaped like ``vectors``.
    """
    angles = positions.to(theta.device, torch.float32)[..., None] * theta
    cosine, sine = angles.cos(), angles.sin()
    first, second = vectors.float().chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
