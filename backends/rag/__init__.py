"""Retrieval-augmented generation: the baseline every other memory is measured against."""

from memagent.backends.rag.backend import Rag, RagConfig

__all__ = ["Rag", "RagConfig"]
