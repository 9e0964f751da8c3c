"""The texts that are embedded for a chunk: the whole and its clauses."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memagent.backends.rag.views import chunk_key, views
from memagent.backends.records import Turn
from memagent.backends.shared.chunking import Chunk, split_turn


def turn(text: str, speaker: str | None = None) -> Turn:
    return Turn(7, "0" * 32, "monday", "user", text, datetime(2026, 3, 1, tzinfo=UTC), speaker)


def view_texts(text: str, speaker: str | None = None) -> dict[str, str]:
    (chunk,) = split_turn(turn(text, speaker))
    return views(chunk)


def test_one_clause_has_one_view() -> None:
    assert view_texts("My dog is called Biscuit.") == {"7:0": "My dog is called Biscuit."}


def test_a_sentence_of_two_clauses_is_also_embedded_clause_by_clause() -> None:
    text = "I grew up in Oamaru, so the smell of the sea makes me homesick"
    assert view_texts(text) == {
        "7:0": text,
        "7:0/0": "I grew up in Oamaru",
        "7:0/1": "so the smell of the sea makes me homesick",
    }


@pytest.mark.parametrize(
    "text",
    [
        "I like green tea. My sister prefers coffee.",
        "I like green tea\nMy sister prefers coffee.",
        "I like green tea \u2013 my sister prefers coffee.",
        "I like green tea but my sister prefers coffee.",
        "I like green tea, although my sister prefers coffee.",
    ],
)
def test_every_kind_of_clause_end_divides(text: str) -> None:
    clauses = list(view_texts(text).values())[1:]
    assert len(clauses) == 2
    assert clauses[0].rstrip(".") == "I like green tea"
    assert clauses[1].endswith("my sister prefers coffee.") or clauses[1] == "My sister prefers coffee."


def test_clauses_of_under_three_words_get_no_view_of_their_own() -> None:
    texts = view_texts("Oh well. Never mind then, really. I live in Porto near the sea. Yes!")
    assert texts["7:0/0"] == "Never mind then, really."
    assert texts["7:0/1"] == "I live in Porto near the sea."
    assert len(texts) == 3


def test_a_speaker_is_named_in_every_view() -> None:
    texts = view_texts("I grew up in Oamaru, so the smell of the sea makes me homesick", speaker="Ana")
    assert len(texts) == 3
    assert all(text.startswith("Ana: ") for text in texts.values())


def test_every_view_belongs_to_its_chunk() -> None:
    chunk = Chunk(turn("x"), 2, "I like green tea. My sister prefers coffee. We both dislike milk.")
    keys = list(views(chunk))
    assert len(keys) == 4
    assert {chunk_key(key) for key in keys} == {chunk.key}
