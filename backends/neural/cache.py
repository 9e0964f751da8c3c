"""The cache of a Hugging Face model, under the name that the installed transformers has for it.

transformers 5.24 renamed the argument and output field ``past_key_values`` to ``cache``: 5.23 knows only the old
name, and 5.40 is to know only the new one. A model of ours takes both names and returns the one that the installed
transformers reads:

    class OurModel(OurPreTrainedModel, CachedGenerationMixin):
        @can_return_tuple
        def forward(self, input_ids=None, cache=None, ..., past_key_values=None):
            cache = given_cache(cache, past_key_values)
            ...
            return CausalLMOutputWithPast(logits=logits, **{CACHE_NAME: cache})

Its ``forward`` declares every argument that it takes and has no ``**kwargs``, so that the next renamed argument is
a TypeError instead of a sequence that silently begins anew.
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
"""The names under which our models take a cache: the new one and the old one."""


def cache_field(output_class: type[Any]) -> str:
    """Return the name of the cache in an output class of transformers.

    Args:
        output_class: A dataclass with one field of `CACHE_NAMES`.

    Raises:
        ValueError: It has none of them, or both.
    """
    names = [field.name for field in fields(output_class) if field.name in CACHE_NAMES]
    if len(names) != 1:
        expected = " or ".join(CACHE_NAMES)
        raise ValueError(
            f"{output_class.__name__} is expected to have one field named {expected}; it has {names}"
        )
    return names[0]


CACHE_NAME = cache_field(BaseModelOutputWithPast)
"""The name of the cache in the installed transformers: in outputs, in ``forward`` and in ``generate``."""


def given_cache(cache: CacheT | None, past_key_values: CacheT | None) -> CacheT | None:
    """Return the cache that was given under either name; None if there is none.

    Raises:
        TypeError: Both are given. They need not be the same.
    """
    if cache is not None and past_key_values is not None:
        raise TypeError("a cache is expected as cache or as past_key_values (its old name), not as both")
    return past_key_values if cache is None else cache


class GenerationCache(ABC):
    """What ``generate`` asks of a cache, for caches that are not made of keys and values.

    Attributes:
        is_compileable: Whether it has one shape from the first token on, for ``torch.compile``.
        is_croppable: Whether it can be taken back to before its last tokens.
        is_linear: Whether each layer is linear attention. If all were, ``generate`` would give the model the whole
            text again, and not only the tokens that the cache has not seen.
    """

    is_compileable: ClassVar[bool] = False
    is_croppable: ClassVar[bool] = False
    is_linear: ClassVar[tuple[bool, ...]] = (False,)

    @abstractmethod
    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens read so far."""

    @abstractmethod
    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let sample i go on as sample ``beam_idx[i]``, as beam search asks for.

        Args:
            beam_idx: ``[batch]``.
        """


class CachedGenerationMixin(GenerationMixin):
    """``generate`` that takes a cache under both names, whatever the installed transformers calls it."""

    def generate(
        self,
        *args: Any,
        cache: GenerationCache | None = None,
        past_key_values: GenerationCache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate tokens, as `transformers.GenerationMixin.generate` does.

        Args:
            args, kwargs: As there.
            cache: What was read before; it is brought up to date. None begins a sequence.
            past_key_values: The old name of ``cache``.

        Raises:
            TypeError: Both names are given, or an argument that ``forward`` does not know.
            ValueError: An argument that ``generate`` does not know.
        """
        cache = given_cache(cache, past_key_values)
        if cache is not None:
            kwargs[CACHE_NAME] = cache
        return super().generate(*args, **kwargs)
