"""The one place where memory meets transformers: an attention function that asks whoever watches a layer.

transformers looks attention functions up by name (``AttentionInterface``), so nothing of a model is replaced:
while anyone watches, the model's configuration names our function, which hands queries, keys and values over to the
watcher of its own context, and otherwise computes what ``sdpa`` does. Afterwards the old name stands there again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor

NAME = "memagent_memory"


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
            The layer's output ``[batch, heads, q_len, head_dim]``, or None for the usual scaled-dot-product attention.
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


# By id of the model's configuration, which its attention modules share.
_watchers: ContextVar[Mapping[int, Watcher]] = ContextVar("memagent_watchers", default=MappingProxyType({}))
_open: dict[int, tuple[int, str]] = {}
_lock = threading.Lock()


def layers(model: Any) -> list[Any]:
    """Return a model's attention modules, first layer first."""
    return [layer.self_attn for layer in model.model.layers]


@contextmanager
def watched(model: Any, watcher: Watcher) -> Iterator[None]:
    """Let ``watcher`` see every attention layer of ``model`` in this ``contextvars`` context, while it is open.

    Another thread or task that uses the same model meanwhile has a context of its own, and does not see the watcher.
    Within one context the watcher opened last is the one that sees.
    """
    own = id(model.config)
    _use_ours(model)
    token = _watchers.set({**_watchers.get(), own: watcher})
    try:
        yield
    finally:
        _watchers.reset(token)
        _use_its_own(model)


def _use_ours(model: Any) -> None:
    """Have a model look our function up; what it looked up before stands there again when nobody needs ours."""
    with _lock:
        if id(model.config) not in _open:
            _register()
            _open[id(model.config)] = 0, model.config._attn_implementation
            model.set_attn_implementation(NAME)
        count, before = _open[id(model.config)]
        _open[id(model.config)] = count + 1, before


def _use_its_own(model: Any) -> None:
    with _lock:
        count, before = _open.pop(id(model.config))
        if count > 1:
            _open[id(model.config)] = count - 1, before
        else:
            model.set_attn_implementation(before)


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

    watcher = _watchers.get().get(id(module.config))
    if watcher is not None:
        call = AttentionCall(attention_mask, options["position_ids"], options["scaling"])
        seen = watcher(module.layer_idx, query, key, value, call)
        if seen is not None:
            return seen.transpose(1, 2).contiguous(), None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return output, None
