"""The one place where the map meets transformers: an attention function that asks whoever watches a layer.

transformers looks attention functions up by name (``AttentionInterface``), so nothing of a model is replaced:
while a ``Watch`` is open, the model's configuration names our function, and each attention layer that the watch
holds hands its queries, keys and values over. Afterwards the old name stands there again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor

NAME = "memagent_memory_map"


class Watcher(Protocol):
    """What happens inside an attention layer while it is watched."""

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall
    ) -> Tensor | None:
        """See one layer's attention.

        Args:
            layer: from 0.
            query: ``[batch, heads, q_len, head_dim]``, rotated to ``call.positions``.
            key, value: ``[batch, kv_heads, kv_len, head_dim]``: what the cache held before, then the new tokens.
            call: mask, positions and scaling.

        Returns:
            The layer's output ``[batch, heads, q_len, head_dim]``, or None to let the model's own attention run.
        """
        ...


class AttentionCall:
    """One call of an attention function.

    Attributes:
        mask: boolean ``[batch, 1, q_len, kv_len]``, True where a query may attend; None for plain causal attention.
        positions: ``[batch or 1, q_len]``, in tokens.
        scaling: what the scores are multiplied by.
    """

    def __init__(self, mask: Tensor | None, positions: Tensor, scaling: float) -> None:
        self.mask = mask
        self.positions = positions
        self.scaling = scaling


_watched: WeakKeyDictionary[Any, Watcher] = WeakKeyDictionary()


def layers(model: Any) -> list[Any]:
    """Return a model's attention modules, first layer first."""
    return [layer.self_attn for layer in model.model.layers]


@contextmanager
def watched(model: Any, watcher: Watcher) -> Iterator[None]:
    """Let ``watcher`` see every attention layer of ``model`` while the context is open.

    Works from any thread, and for several models at once; one model has one watcher at a time.
    """
    _register()
    before = model.config._attn_implementation
    own = layers(model)
    if any(layer in _watched for layer in own):
        raise RuntimeError("This model is already attached to a memory map.")
    try:
        for layer in own:
            _watched[layer] = watcher
        model.set_attn_implementation(NAME)
        yield
    finally:
        model.set_attn_implementation(before)
        for layer in own:
            _watched.pop(layer, None)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    watcher = _watched.get(module)
    if watcher is not None:
        call = AttentionCall(attention_mask, options["position_ids"], options["scaling"])
        seen = watcher(module.layer_idx, query, key, value, call)
        if seen is not None:
            return seen.transpose(1, 2).contiguous(), None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return output, None
