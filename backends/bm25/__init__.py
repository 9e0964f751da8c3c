"""Full-text search over turns: BM25, no model."""

from memagent.backends.bm25.backend import Bm25, Bm25Config

__all__ = ["Bm25", "Bm25Config"]
