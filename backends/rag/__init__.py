"""Retrieval-augmented generation: BM25 and embeddings over past turns, fused."""

from memagent.backends.rag.backend import Rag, RagConfig

__all__ = ["Rag", "RagConfig"]
