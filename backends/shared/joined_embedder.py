"""Several embedders as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from memagent.backends.protocol import Embedder, Vectors
from memagent.backends.shared.multilingual import MultilingualEmbedder

SEPARATOR = "+"
"""Stands between the names of embedders that are used together."""


class JoinedEmbedder:
    """Several embedders as one: the similarity of two texts is the mean of their similarities.

    The vectors stand one after the other, each divided by the square root of their number, so that the inner product of two
    joined vectors is the mean of the embedders' inner products.

    Args:
        embedders: two or more.
    """

    def __init__(self, embedders: Sequence[Embedder]) -> None:
        self._embedders = embedders
        self.name = SEPARATOR.join(embedder.name for embedder in embedders)

    @property
    def digest(self) -> str:
        """SHA-256 of the embedders' digests, so that its first letters, which messages show, depend on all of them."""
        digests = SEPARATOR.join(embedder.digest for embedder in self._embedders)
        return hashlib.sha256(digests.encode()).hexdigest()

    @property
    def dimension(self) -> int:
        """The sum of the embedders' dimensions."""
        return sum(embedder.dimension for embedder in self._embedders)

    @property
    def max_tokens(self) -> int:
        """The shortest of the embedders' limits."""
        return min(embedder.max_tokens for embedder in self._embedders)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 ``[texts, dimension]``, each row of length 1; see the embedders for what they raise."""
        return self._join([embedder.embed(texts) for embedder in self._embedders])

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed questions, each embedder in its own way."""
        return self._join([embedder.embed_queries(texts) for embedder in self._embedders])

    def _join(self, parts: Sequence[Vectors]) -> Vectors:
        return np.concatenate(parts, axis=1) / np.float32(len(parts) ** 0.5)


def with_multilingual(embedder: Embedder) -> Embedder:
    """Return an embedder joined with the multilingual encoder, unless that is a part of it."""
    encoder = MultilingualEmbedder()
    if encoder.name in embedder.name.split(SEPARATOR):
        return embedder
    return JoinedEmbedder([embedder, encoder])
