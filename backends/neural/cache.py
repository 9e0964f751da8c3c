"""Caches of Hugging Face models, under both names that transformers has used for them.

transformers 5.24 renamed the argument and output field ``past_key_values`` to ``cache``: 5.23 knows only the old name, 5.40
will know only the new one. A model of memagent takes both names and returns the one of the installed transformers:

    class Model(PreTrainedModel, CachedGenerationMixin):
        @can_return_tuple
        def forward(self, input_ids=None, cache=None, ..., past_key_values=None):
            cache = resolve_cache(cache, past_key_values)
            ...
            return CausalLMOutputWithPast(logits=logits, **{CACHE_NAME: cache})

Its ``forward`` declares every argument and has no ``**kwargs``, so that the next renamed argument is a TypeError instead of
a sequence that silently begins again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast

CacheT = TypeVar("CacheT")

CACHE_NAMES = ("cache", "past_key_values")
"""The names under which models take a cache: the new one and the old one."""


def cache_field(output_class: type[Any]) -> str:
    """Return the name of the cache in an output class of transformers.

    Args:
        output_class: A dataclass with exactly one field of `CACHE_NAMES`.

    Raises:
        ValueError: The class has none of these fields, or both.
    """
    names = [field.name for field in fields(output_class) if field.name in CACHE_NAMES]
    if len(names) != 1:
        expected = " or ".join(CACHE_NAMES)
        raise ValueError(
            f"{output_class.__name__} is expected to have one field named {expected}; it has {names}"
        )
    return names[0]


CACHE_NAME = cache_field(BaseModelOutputWithPast)
"""The name of the cache in outputs, ``forward`` and ``generate`` of the installed transformers."""


def resolve_cache(cache: CacheT | None, past_key_values: CacheT | None) -> CacheT | None:
    """Return the cache that was passed under either name, or None.

    Raises:
        TypeError: A cache is passed under both names.
    """
    if cache is not None and past_key_values is not None:
        raise TypeError("a cache is expected as cache or as past_key_values (its old name), not as both")
    return past_key_values if cache is None else cache


class GenerationCache(ABC):
    """The interface that ``generate`` expects of a cache, for caches that do not consist of keys and values.

    Attributes:
        is_compileable: Whether all tensors keep their shapes from the first token on, as ``torch.compile`` needs.
        is_croppable: Whether the last tokens can be removed.
        is_linear: Whether each layer is linear attention. If all were, ``generate`` would give the model the whole text at
            each token, not only the tokens that the cache has not read.
    """

    is_compileable: ClassVar[bool] = False
    is_croppable: ClassVar[bool] = False
    is_linear: ClassVar[tuple[bool, ...]] = (False,)

    @abstractmethod
    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens that the cache has read."""

    @abstractmethod
    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Replace each sample with another one of the batch, for beam search.

        Args:
            beam_idx: ``[batch]``: sample i becomes a copy of sample ``beam_idx[i]``.
        """


class CachedGenerationMixin(GenerationMixin):
    """A ``generate`` that takes a cache under both names, for any installed transformers."""

    def generate(
        self,
        *args: Any,
        cache: GenerationCache | None = None,
        past_key_values: GenerationCache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate tokens, as `transformers.GenerationMixin.generate` does.

        Args:
            *args: See `transformers.GenerationMixin.generate`.
            cache: The state of the sequence so far, which is updated. None begins a sequence.
            past_key_values: The old name of ``cache``.
            **kwargs: See `transformers.GenerationMixin.generate`.

        Returns:
            See `transformers.GenerationMixin.generate`.

        Raises:
            TypeError: Both names are passed, or an argument that ``forward`` does not declare.
            ValueError: An argument that ``generate`` does not know is passed.
        """
        cache = resolve_cache(cache, past_key_values)
        if cache is not None:
            kwargs[CACHE_NAME] = cache
        return super().generate(*args, **kwargs)
