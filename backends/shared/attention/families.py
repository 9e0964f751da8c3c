"""What memory inside attention needs to know about a model family.

To add a family, add one entry to ``FAMILIES``. Its attention must be causal attention as Llama's is:

- Each layer computes attention through transformers' ``AttentionInterface`` and passes ``position_ids`` and ``scaling``.
- Rotary positions turn the whole head, component ``i`` together with component ``i + head_dim / 2``, after any
  normalisation of queries and keys.
- Scores are the scaled inner products alone: no soft cap, no sinks, no bias by distance.
- The configuration names ``num_hidden_layers``, ``num_attention_heads`` and ``num_key_value_heads``.

The tests of ``tests/backends/shared/attention`` and ``tests/backends/rope_map`` run on each family in the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import Tensor

from memagent.backends.errors import SettingError


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """Where the causal language models of a family keep their parts, as dotted paths from the model.

    Attributes:
        decoder: the stack of layers without the output head.
        frequencies: the rotary frequencies, ``[head_dim / 2]``, radians per token.
    """

    decoder: str = "model"
    frequencies: str = "model.rotary_emb.inv_freq"

    def decoder_of(self, model: Any) -> Any:
        """Return a model's decoder, a torch module that returns hidden states."""
        return attrgetter(self.decoder)(model)

    def frequencies_of(self, model: Any) -> Tensor:
        """Return a model's rotary frequencies ``theta``: float32 ``[head_dim / 2]``, radians per token."""
        frequencies: Tensor = attrgetter(self.frequencies)(model)
        return frequencies.float()


FAMILIES = {
    "llama": ModelFamily(),
    "mistral": ModelFamily(),
    "qwen2": ModelFamily(),
    "qwen3": ModelFamily(),
}
"""Supported families by ``config.model_type``. SmolLM and SmolLM2 are of type ``llama``, Qwen2.5 of type ``qwen2``."""

# The frequencies of these rotary types do not depend on the length of the text.
_STATIC_ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def supported_family(model: Any) -> ModelFamily:
    """Return the family of a model whose attention can hold a memory.

    Args:
        model: a causal language model of transformers.

    Raises:
        SettingError: the model is of another family, or its rotary frequencies change with the length of the text.
    """
    model_type = model.config.model_type
    if model_type not in FAMILIES:
        raise SettingError(
            f"Memory inside attention supports models of the families {', '.join(FAMILIES)}; this model is of the family "
            f"{model_type!r}. Choose another model, or --channel text with a backend that needs no local model "
            "(`memagent backends list`)."
        )
    if not has_static_frequencies(model):
        raise SettingError(
            "Memory inside attention supports rotary frequencies that do not depend on the length of the text "
            f"({', '.join(_STATIC_ROPE_TYPES)}); those of this model are {_rope_type(model)!r}. Choose another model."
        )
    return FAMILIES[model_type]


def has_static_frequencies(model: Any) -> bool:
    """Return whether a model's rotary frequencies, if it has any, do not depend on the length of the text.

    Args:
        model: a causal language model of transformers.
    """
    return _rope_type(model) in _STATIC_ROPE_TYPES


def _rope_type(model: Any) -> str:
    rope_type: str = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type", "default")
    return rope_type
