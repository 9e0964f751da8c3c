"""Attending to memory: chosen pieces, or single tokens of all pieces, in one softmax with the local context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.encoder import KeysAndValues
from memagent.backends.shared.attention.hooks import AttentionCall
from memagent.kernels.memory_attention import memory_attention

Placement = Literal["consecutive", "fixed"]
# Scores are learnt on generated talk, where they differ more than among people's questions: differences are widened.
_SHARPNESS = 4.0
_LEAST_PRIOR = math.log(0.2)


class Attended:
    """Keys and values that every layer's queries attend to besides the local context.

    Args:
        pieces: what is remembered, oldest first.
        theta: the model's rotary frequencies.
        device, dtype: of the model.
        placement: ``consecutive``: the pieces' tokens stand one after the other, right before the local context;
            ``fixed``: all stand at position 0 and all queries at ``offset``, the paper's way.
        offset: in tokens, for ``fixed``.
        priors: for each piece, how likely it is meant, relative to the likeliest: natural logarithms up to 0. They
            enter the softmax, so that a doubtful piece does not outshout a certain one.
        top_k: each query of each head attends to so many memory tokens only; None: to all.
    """

    def __init__(
        self,
        pieces: Sequence[KeysAndValues],
        theta: Tensor,
        device: torch.device,
        dtype: torch.dtype,
        *,
        placement: Placement,
        offset: int,
        priors: Sequence[float] | None = None,
        top_k: int | None = None,
    ) -> None:
        self._theta = theta.to(device)
        self._placement = placement
        self._offset = offset
        self._top_k = top_k
        # [layers, kv_heads, tokens, head_dim]
        keys, values = (
            torch.cat([getattr(piece, part) for piece in pieces]).to(device, dtype).permute(1, 2, 0, 3)
            for part in ("keys", "values")
        )
        self.tokens = keys.shape[2]
        if placement == "consecutive":
            keys = rotary.rotate(keys, torch.arange(self.tokens), self._theta).to(dtype)
        self._keys, self._values = keys.contiguous(), values.contiguous()
        self._bias = None
        if priors is not None and len(pieces) > 1:
            lengths = torch.tensor([len(piece.keys) for piece in pieces])
            least = (_SHARPNESS * torch.tensor(priors)).clamp(_LEAST_PRIOR, 0.0)
            self._bias = least.repeat_interleave(lengths).to(device)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> Tensor:
        """Watch one layer: see ``attention.Watcher``."""
        # The queries are already turned to their positions; what is missing to where memory wants them is turned here.
        if self._placement == "consecutive":
            shift = torch.tensor(self.tokens)
        else:
            shift = self._offset - call.positions[:, None]
        return memory_attention(
            query,
            key,
            value,
            rotary.rotate(query, shift, self._theta).to(query.dtype),
            self._keys[layer][None],
            self._values[layer][None],
            mask=call.mask,
            is_causal=call.mask is None and query.shape[2] > 1,
            scaling=call.scaling,
            top_k=self._top_k,
            memory_bias=self._bias,
        )
