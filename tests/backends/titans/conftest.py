"""Titans' networks are small: one thread is fastest, as for the kernels."""

from __future__ import annotations

from tests.kernels.conftest import one_thread

__all__ = ["one_thread"]
