"""The word-search baseline that stands beside every memory: Okapi BM25 over turns, or over whole sessions."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence


class Bm25:
    """SQLite's full-text search with Porter stems and its own ``bm25()`` (k1 = 1.2, b = 0.75), nothing added.

    Args:
        texts: the documents; a document's place is its id.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._database = sqlite3.connect(":memory:")
        self._database.execute(
            "CREATE VIRTUAL TABLE documents USING fts5(text, tokenize = 'porter unicode61')"
        )
        self._database.executemany("INSERT INTO documents(rowid, text) VALUES (?, ?)", enumerate(texts))

    def rank(self, query: str, limit: int) -> list[int]:
        """Return the places of the documents that share a word with the query, best first."""
        words = dict.fromkeys(re.findall(r"\w+", query.lower()))
        if not words:
            return []
        wanted = " OR ".join(f'"{word}"' for word in words)
        found = self._database.execute(
            "SELECT rowid FROM documents WHERE documents MATCH ? ORDER BY bm25(documents), rowid LIMIT ?",
            (wanted, limit),
        )
        return [place for (place,) in found]

    def close(self) -> None:
        self._database.close()
