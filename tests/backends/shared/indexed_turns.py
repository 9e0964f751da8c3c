"""Turns in a full-text index, and what it says about them."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from memagent.backends.records import Turn
from memagent.backends.shared.chunking import split_turn
from memagent.backends.shared.full_text import FullTextIndex
from memagent.backends.shared.words import content_words, query_words
from tests.backends.turns import make_turn

Index = TypeVar("Index", bound=FullTextIndex)


def opened_below(folder: Path, make_index: Callable[[Path], Index]) -> Iterator[Callable[..., Index]]:
    """Yield a function that opens indexes by file name; what stays open is closed at the end."""
    opened: list[Index] = []

    def open_(name: str = "index.sqlite3") -> Index:
        opened.append(make_index(folder / name))
        return opened[-1]

    yield open_
    for index in opened:
        index.close()


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


def check_forgetting(open_index: Callable[[str], FullTextIndex], folder: Path, seed: int) -> None:
    """Assert that an index that has forgotten random turns stores and ranks as one that never had them."""
    rng = random.Random(seed)
    turns = [_random_turn(rng, seq) for seq in range(1, 60)]
    forgotten = set(rng.sample(range(1, 60), 25))
    index, rebuilt = open_index("index.sqlite3"), open_index("rebuilt.sqlite3")
    add(index, *turns)
    for group in _in_groups(rng, sorted(forgotten)):
        index.forget(group)
    add(rebuilt, *(kept for kept in turns if kept.seq not in forgotten))
    assert stored_rows(folder / "index.sqlite3") == stored_rows(folder / "rebuilt.sqlite3")
    for word in ("dog", "river", "soup", "lamp"):
        assert search(index, word) == pytest.approx(search(rebuilt, word))


def _random_turn(rng: random.Random, seq: int) -> Turn:
    words = rng.choices(["dog", "river", "soup", "lamp", "the", f"unique{seq}"], k=rng.choice([3, 8, 400]))
    return make_turn(
        seq,
        " ".join(words),
        rng.choice(["user", "assistant"]),
        rng.choice(["monday", "tuesday", "wednesday"]),
        rng.choice([None, None, "Ana"]),
    )


def _in_groups(rng: random.Random, seqs: Sequence[int]) -> list[list[int]]:
    shuffled = rng.sample(seqs, len(seqs))
    return [shuffled[:10], shuffled[10:11], shuffled[11:]]
