"""The texts that are embedded for a chunk: the whole of it, and its clauses beside it.

One vector blurs what a long sentence says in passing: "I grew up in Oamaru, so the smell of the sea
makes me homesick" has cosine 0.28 to "Where did I spend my childhood?", its first clause alone 0.40.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from memagent.backends.shared.chunking import Chunk

_MIN_CLAUSE_WORDS = 3
_CLAUSE_END = re.compile(
    r"(?<=[.!?;:])\s+|\s+[-\u2013\u2014]\s+|\n+"
    r"|\s+(?:and|but|because|so)\s+(?=(?:i|we|he|she|they|it|my|our|the)\b)"
    r"|,\s+(?:and\s+|but\s+)?(?=(?:so|and|but|because|which|who|where|when|though|although|i|we|he|she|they|it|that|my|our|the)\b)",
    re.IGNORECASE,
)


def views(chunk: Chunk) -> dict[str, str]:
    """Return the texts to embed for a chunk.

    A transcript's speaker is named in each; "user" and "assistant" are not, they only blur.

    Returns:
        The whole text under the chunk's key, and, if the chunk has several clauses, each clause of at least three
        words under ``key/number``.
    """
    name = f"{chunk.turn.speaker}: " if chunk.turn.speaker else ""
    clauses = [clause for clause in _CLAUSE_END.split(chunk.text) if len(clause.split()) >= _MIN_CLAUSE_WORDS]
    texts = {chunk.key: name + chunk.text}
    if len(clauses) > 1 or (clauses and len(clauses[0]) < len(chunk.text) - 10):
        texts |= {f"{chunk.key}/{number}": name + clause for number, clause in enumerate(clauses)}
    return texts


def view_keys(chunks: Iterable[Chunk]) -> list[str]:
    """Return the keys of the vectors that chunks have: one for each view."""
    return [key for chunk in chunks for key in views(chunk)]


def chunk_key(view_key: str) -> str:
    """Return the key of the chunk that a view belongs to."""
    return view_key.partition("/")[0]
