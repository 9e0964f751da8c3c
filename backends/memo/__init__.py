"""MeMo as a memory: correlation matrices that regenerate what they have read, and forget it exactly."""

from memagent.backends.memo.backend import Memo
from memagent.backends.memo.config import MemoConfig

__all__ = ["Memo", "MemoConfig"]
