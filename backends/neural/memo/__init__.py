"""MeMo (https://arxiv.org/abs/2502.12851): correlation matrix memories that store, regenerate and exactly forget texts.

from memagent.backends.neural.memo import MeMoMemory, MeMoSettings, regenerate

memory = MeMoMemory(MeMoSettings(vocab_size=50_000, dim=1024))
memory.memorise([ids])
regenerate(memory, [ids[:4]], limit=100)
"""

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

__all__ = [
    "Explanation",
    "LayerVote",
    "MeMoMemory",
    "MeMoSettings",
    "Regeneration",
    "StateError",
    "explain",
    "load",
    "regenerate",
    "save",
]
