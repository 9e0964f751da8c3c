"""Titans: a neural memory that learns at test time (https://arxiv.org/abs/2501.00663)."""

from memagent.backends.titans.backend import Titans, TitansConfig

__all__ = ["Titans", "TitansConfig"]
