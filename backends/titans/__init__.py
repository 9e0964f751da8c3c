"""Titans as a memory of conversations: networks that learn at test time (https://arxiv.org/abs/2501.00663)."""

from memagent.backends.titans.backend import Titans
from memagent.backends.titans.config import TitansMemoryConfig

__all__ = ["Titans", "TitansMemoryConfig"]
