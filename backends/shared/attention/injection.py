"""Injecting stored keys and values into attention: one softmax over memory and local context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from memagent.backends.errors import SettingError
from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.encoder import KeysAndValues
from memagent.backends.shared.attention.hooks import AttentionCall, AttentionHook
from memagent.kernels.memory_attention import memory_attention

Placement = Literal["consecutive", "fixed"]


class InjectedKeysAndValues:
    """Attention hook: the queries of every layer attend to stored keys and values besides the local context.

    Args:
        chunks: at least one, oldest first; all layers of each.
        theta: the model's rotary frequencies, ``[head_dim / 2]``.
        device, dtype: of the model.
        placement: ``consecutive``: the chunks' tokens stand one after the other, right before the local context;
            ``fixed``: all memory stands at position 0 and all queries at ``offset``, as in the paper (InfLLM, arXiv
            2402.04617).
        offset: in tokens, for ``fixed``.
        log_weights: natural logarithm of each chunk's weight, added to the scores of all its tokens, so that a
            doubtful chunk counts for less; 0 for full weight. None: all 0.
        top_k: how many memory tokens each query of each head attends to; None: all.
    """

    def __init__(
        self,
        chunks: Sequence[KeysAndValues],
        theta: Tensor,
        device: torch.device,
        dtype: torch.dtype,
        *,
        placement: Placement,
        offset: int,
        log_weights: Sequence[float] | None = None,
        top_k: int | None = None,
    ) -> None:
        self._chunks = list(chunks)
        self._log_weights = list(log_weights) if log_weights is not None else [0.0] * len(chunks)
        self._theta = theta.to(device)
        self._placement = placement
        self._offset = offset
        self._top_k = top_k
        # [layers, kv_heads, tokens, head_dim]
        keys, values = (
            torch.cat([getattr(chunk, part) for chunk in chunks]).to(device, dtype).permute(1, 2, 0, 3)
            for part in ("keys", "values")
        )
        self.num_tokens = keys.shape[2]
        if placement == "consecutive":
            keys = rotary.rotate(keys, torch.arange(self.num_tokens), self._theta).to(dtype)
        self._keys, self._values = keys.contiguous(), values.contiguous()
        self._bias = None
        if log_weights is not None and len(chunks) > 1:
            lengths = torch.tensor([len(chunk.keys) for chunk in chunks])
            self._bias = torch.tensor(log_weights).repeat_interleave(lengths).to(device)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> Tensor:
        """Compute one layer's attention, see ``hooks.AttentionHook``."""
        # The queries are rotated to their positions already: rotate on from there to where memory expects them.
        if self._placement == "consecutive":
            shift = torch.tensor(self.num_tokens)
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

    def join(self, outer: AttentionHook) -> InjectedKeysAndValues:
        """Return one hook that injects the chunks of another memory before the chunks of this one.

        Args:
            outer: the other memory's hook.

        Raises:
            SettingError: one of them selects single tokens or stands at a fixed place.
        """
        if not isinstance(outer, InjectedKeysAndValues) or any(
            hook._placement != "consecutive" or hook._top_k is not None for hook in (outer, self)
        ):
            raise SettingError(
                "Two memories inside one model need consecutive placement and whole chunks; expected mode=chunk and "
                "placement=consecutive. Change the setting, or use --channel text."
            )
        return InjectedKeysAndValues(
            [*outer._chunks, *self._chunks],
            self._theta,
            self._keys.device,
            self._keys.dtype,
            placement="consecutive",
            offset=0,
            log_weights=[*outer._log_weights, *self._log_weights],
        )
