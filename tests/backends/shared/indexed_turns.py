"""Turns in a full-text index, and what it says about them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from memagent.backends.records import Turn
from memagent.backends.shared.chunking import split_turn
from memagent.backends.shared.full_text import FullTextIndex
from memagent.backends.shared.words import content_words, query_words


def turn(
    seq: int, text: str, role: str = "user", session: str = "monday", speaker: str | None = None
) -> Turn:
    when = datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(minutes=seq)
    return Turn(seq, f"{seq:032x}", session, role, text, when, speaker)


def add(index: FullTextIndex, *turns: Turn) -> None:
    index.add([chunk for added in turns for chunk in split_turn(added)])


def search(index: FullTextIndex, query: str, limit: int = 100) -> dict[str, float]:
    """Search for a query's content words, or for all its words if it has none."""
    return index.search(content_words(query) or query_words(query), limit)


def hits(index: FullTextIndex, query: str) -> set[str]:
    return set(search(index, query))


def coverage(index: FullTextIndex, query: str, keys: Sequence[str]) -> dict[str, float]:
    return index.coverage(content_words(query), keys)


def stored_rows(file: Path) -> list[tuple[object, ...]]:
    """Return everything the file says about each chunk, and the text it is found by."""
    with sqlite3.connect(file) as database:
        rows = database.execute(
            "SELECT seq, part, id, session, role, speaker, created_at, chunks.text, documents.*"
            " FROM chunks JOIN documents ON documents.rowid = chunks.rowid ORDER BY seq, part"
        ).fetchall()
    database.close()
    return rows


def bytes_below(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
