"""MeMo (https://arxiv.org/abs/2502.12851): correlation matrix memories that store, regenerate and exactly forget texts.

    from memagent.backends.neural.memo import MeMoMemory, MeMoSettings, regenerate

    memory = MeMoMemory(MeMoSettings(vocab_size=50_000, dim=1024))
    memory.memorise([ids])
    regenerate(memory, [ids[:4]], limit=100)

As a Hugging Face language model it is `MeMoForCausalLM`. Its first use imports transformers and registers the model type
``memo``, so that ``AutoModelForCausalLM.from_pretrained`` loads it.
"""

from typing import TYPE_CHECKING, Any

from memagent.backends.neural.memo.memory import MeMoMemory
from memagent.backends.neural.memo.regeneration import (
    Explanation,
    LayerVote,
    Regeneration,
    explain,
    regenerate,
)
from memagent.backends.neural.memo.settings import MeMoSettings
from memagent.backends.neural.memo.storage import StateError, load, save

if TYPE_CHECKING:
    from memagent.backends.neural.memo.cache import MeMoCache
    from memagent.backends.neural.memo.config import MeMoConfig
    from memagent.backends.neural.memo.model import MeMoForCausalLM

__all__ = [
    "Explanation",
    "LayerVote",
    "MeMoCache",
    "MeMoConfig",
    "MeMoForCausalLM",
    "MeMoMemory",
    "MeMoSettings",
    "Regeneration",
    "StateError",
    "explain",
    "load",
    "regenerate",
    "save",
]


def __getattr__(name: str) -> Any:
    """Import the classes that need transformers when they are first used."""
    if name in ("MeMoCache", "MeMoConfig", "MeMoForCausalLM"):
        from memagent.backends.neural.memo import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
