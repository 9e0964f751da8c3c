"""Attention hooks: the one place where memory meets transformers.

transformers looks attention functions up by name (``AttentionInterface``), so no module of a model is replaced. While a
hook is open, the model's configuration names our function. It hands queries, keys and values to the hook of its own
``contextvars`` context, and computes scaled-dot-product attention where there is no hook. Afterwards the configuration
names the former function again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

IMPLEMENTATION_NAME = "memagent_memory"


class AttentionHook(Protocol):
    """What runs inside each attention layer while the hook is open."""

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall
    ) -> Tensor | None:
        """Read one layer's attention, or replace its output.

        Args:
            layer: from 0.
            query: ``[batch, heads, q_len, head_dim]``, rotated to ``call.positions``.
            key: ``[batch, kv_heads, kv_len, head_dim]``: those of the cache, then those of the new tokens.
            value: like ``key``.
            call: mask, positions and scaling.

        Returns:
            The layer's output ``[batch, heads, q_len, head_dim]``, or None for scaled-dot-product attention.
        """
        ...


@runtime_checkable
class JoinableHook(AttentionHook, Protocol):
    """A hook that can do another one's work together with its own, such as two memories in one softmax."""

    def join(self, outer: AttentionHook) -> AttentionHook:
        """Return one hook for both.

        Args:
            outer: the hook that was opened before.

        Raises:
            SettingError: the two cannot be joined.
        """
        ...


class AttentionCall:
    """One call of an attention function.

    Attributes:
        mask: boolean ``[batch, 1, q_len, kv_len]``, True where a query may attend; None for plain causal attention.
        positions: ``[batch or 1, q_len]``, in tokens.
        scaling: the factor of the scores.
    """

    def __init__(self, mask: Tensor | None, positions: Tensor, scaling: float) -> None:
        self.mask = mask
        self.positions = positions
        self.scaling = scaling


# Both by id of the model's configuration, which its attention modules share.
_hooks: ContextVar[Mapping[int, AttentionHook]] = ContextVar(
    "memagent_attention_hooks", default=MappingProxyType({})
)
# How many hooks are open, and the name of the model's own attention function.
_open_hooks: dict[int, tuple[int, str]] = {}
_lock = threading.Lock()


@contextmanager
def attention_hook(model: Any, hook: AttentionHook) -> Iterator[None]:
    """Run a hook in every attention layer of a model, in this ``contextvars`` context, while it is open.

    Another thread or task that uses the same model at the same time has a context of its own, where the hook does not
    run. Within one context the hook opened last runs; one that can ``join`` the hook before it runs for both.

    Args:
        model: a causal language model of a supported family (``families.py``).
        hook: called once for each layer of each forward pass.
    """
    outer = _hooks.get().get(id(model.config))
    if outer is not None and isinstance(hook, JoinableHook) and isinstance(outer, JoinableHook):
        hook = hook.join(outer)
    _name_our_function(model)
    token = _hooks.set({**_hooks.get(), id(model.config): hook})
    try:
        yield
    finally:
        _hooks.reset(token)
        _restore_function_name(model)


def _name_our_function(model: Any) -> None:
    with _lock:
        key = id(model.config)
        if key not in _open_hooks:
            _register()
            _open_hooks[key] = 0, model.config._attn_implementation
            model.set_attn_implementation(IMPLEMENTATION_NAME)
        count, implementation = _open_hooks[key]
        _open_hooks[key] = count + 1, implementation


def _restore_function_name(model: Any) -> None:
    """Close one hook; the last one restores the name of the model's own attention function."""
    with _lock:
        count, implementation = _open_hooks.pop(id(model.config))
        if count > 1:
            _open_hooks[id(model.config)] = count - 1, implementation
        else:
            model.set_attn_implementation(implementation)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(IMPLEMENTATION_NAME, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION_NAME, sdpa_mask)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    hook = _hooks.get().get(id(module.config))
    if hook is not None:
        call = AttentionCall(attention_mask, options["position_ids"], options["scaling"])
        replacement = hook(module.layer_idx, query, key, value, call)
        if replacement is not None:
            return replacement.transpose(1, 2).contiguous(), None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return output, None
