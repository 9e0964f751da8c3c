"""Splitting turns into chunks."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memagent.backends.records import Turn
from memagent.backends.shared.chunking import MAX_CHUNK_CHARS, split_turn


def turn(text: str) -> Turn:
    return Turn(7, "0" * 32, "monday", "user", text, datetime(2026, 3, 1, tzinfo=UTC))


def chunk_texts(text: str) -> list[str]:
    return [chunk.text for chunk in split_turn(turn(text))]


def test_a_short_turn_is_one_chunk_without_surrounding_blanks() -> None:
    assert chunk_texts("  My dog is called Biscuit.\n") == ["My dog is called Biscuit."]


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000"])
def test_a_blank_turn_has_no_chunks(text: str) -> None:
    assert split_turn(turn(text)) == []


def test_a_turn_of_the_longest_length_is_not_chunk_texts() -> None:
    assert chunk_texts("x" * MAX_CHUNK_CHARS) == ["x" * MAX_CHUNK_CHARS]
    assert chunk_texts("x" * (MAX_CHUNK_CHARS + 1)) == ["x" * MAX_CHUNK_CHARS, "x"]


@pytest.mark.parametrize("end", [". ", "! ", "? ", "。"])
def test_long_text_is_cut_at_sentence_ends(end: str) -> None:
    sentences = [f"sentence number {number} is about one thing or another{end}" for number in range(60)]
    texts = chunk_texts("".join(sentences))
    assert len(texts) > 3
    assert all(text.startswith("sentence number") for text in texts)
    assert all(text.endswith(end.strip()) for text in texts)


def test_a_line_end_is_preferred_to_a_sentence_end() -> None:
    text = "a" * 650 + "\n" + "b" * 50 + ". " + "c" * 500
    assert chunk_texts(text) == ["a" * 650, "b" * 50 + ". " + "c" * 500]


def test_without_sentence_ends_no_word_is_broken() -> None:
    words = [f"word{number}" for number in range(500)]
    assert [word for text in chunk_texts(" ".join(words)) for word in text.split()] == words


def test_a_sentence_end_far_from_the_cut_is_not_waited_for() -> None:
    first = chunk_texts("Short. " + "word " * 400)[0]
    assert len(first) > MAX_CHUNK_CHARS - 10


@given(st.text(alphabet="ab. \n,;!?。\u3000\té😀\x1f", max_size=6000))
@settings(deadline=None, max_examples=150)
def test_no_character_is_lost_but_blanks(text: str) -> None:
    texts = chunk_texts(text)
    assert "".join("".join(texts).split()) == "".join(text.split())
    assert all(0 < len(text) <= MAX_CHUNK_CHARS and text == text.strip() for text in texts)


def test_parts_are_numbered_from_zero_and_keyed_by_turn() -> None:
    chunks = split_turn(turn("word " * 1000))
    assert [chunk.part for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.key for chunk in chunks][:3] == ["7:0", "7:1", "7:2"]
