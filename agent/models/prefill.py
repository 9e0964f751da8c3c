"""Read the prefix of a prompt with a model of transformers, from where the kept prefixes end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memagent.agent.models.prefix_cache import PrefixCache, PrefixScope
from memagent.agent.models.runtime import torch, transformers
from memagent.backends.neural.cache import CACHE_NAME
from memagent.backends.shared.attention.families import has_static_frequencies

KeysAndValues = tuple[Any, Any]
"""Keys and values of one layer, each ``[1, kv_heads, tokens, head_dim]``."""


class PrefixReader:
    """Reads prefixes with one model, and keeps what it has read.

    Args:
        model: a causal language model of transformers.

    Attributes:
        cache: what is kept. Its tensors never change: a cache that grows copies them.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._is_supported = keeps_all_keys_and_values(model)
        self.cache: PrefixCache[Sequence[KeysAndValues]] = PrefixCache()

    def read(self, ids: Sequence[int], scope: PrefixScope | None) -> dict[str, Any]:
        """Return the keys and values after a prefix, as an argument of the model's ``generate``.

        Args:
            ids: the prefix's tokens.
            scope: whose prompt it is; None: nothing that was kept is used, and nothing is kept.

        Returns:
            No argument, if the prefix is empty or the model's cache does not consist of keys and values alone.
        """
        if not ids or not self._is_supported:
            return {}
        cache = transformers.DynamicCache(config=self._model.config)
        shared, state = (0, None) if scope is None else self.cache.lookup(scope, ids)
        for layer, (keys, values) in enumerate(state or ()):
            cache.update(keys[..., :shared, :], values[..., :shared, :], layer)
        if shared < len(ids):
            new_ids = torch.tensor([ids[shared:]], device=self._model.device)
            self._model.base_model(input_ids=new_ids, use_cache=True, **{CACHE_NAME: cache})
            if scope is not None:
                self.cache.add(scope, ids, [(layer.keys, layer.values) for layer in cache.layers])
        return {CACHE_NAME: cache}


def keeps_all_keys_and_values(model: Any) -> bool:
    """Return whether a model can continue after any prefix: its cache keeps the keys and values of all tokens, unchanged.

    Models with sliding windows, linear attention, frequencies that change with the length of the text, or a kind of cache of
    their own cannot.

    Args:
        model: a causal language model of transformers.
    """
    from transformers.cache_utils import DynamicLayer

    settings = model.generation_config
    if settings.cache_implementation is not None or settings.use_cache is False or model.base_model is model:
        return False
    if not (model._supports_default_dynamic_cache() and has_static_frequencies(model)):
        return False
    layers = transformers.DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
