"""Cutting turns into passages and passages into clauses."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memagent.backends.records import Turn
from memagent.backends.shared.chunking import LONGEST, Passage, passage_key, split


def cut(text: str) -> list[str]:
    return [passage.text for passage in split(said(text))]


def said(text: str, speaker: str | None = None) -> Turn:
    return Turn(7, "0" * 32, "monday", "user", text, datetime(2026, 3, 1, tzinfo=UTC), speaker)


def views(text: str, speaker: str | None = None) -> dict[str, str]:
    (passage,) = split(said(text, speaker))
    return passage.views()


def test_a_short_turn_is_one_passage_without_surrounding_blanks() -> None:
    assert cut("  My dog is called Biscuit.\n") == ["My dog is called Biscuit."]


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000"])
def test_a_blank_turn_has_no_passages(text: str) -> None:
    assert split(said(text)) == []


def test_a_turn_of_the_longest_length_is_not_cut() -> None:
    assert cut("x" * LONGEST) == ["x" * LONGEST]
    assert cut("x" * (LONGEST + 1)) == ["x" * LONGEST, "x"]


@pytest.mark.parametrize("end", [". ", "! ", "? ", "。"])
def test_long_text_is_cut_at_sentence_ends(end: str) -> None:
    sentences = [f"sentence number {number} is about one thing or another{end}" for number in range(60)]
    pieces = cut("".join(sentences))
    assert len(pieces) > 3
    assert all(piece.startswith("sentence number") for piece in pieces)
    assert all(piece.endswith(end.strip()) for piece in pieces)


def test_a_line_end_is_preferred_to_a_sentence_end() -> None:
    text = "a" * 650 + "\n" + "b" * 50 + ". " + "c" * 500
    assert cut(text) == ["a" * 650, "b" * 50 + ". " + "c" * 500]


def test_without_sentence_ends_no_word_is_broken() -> None:
    words = [f"word{number}" for number in range(500)]
    assert [word for piece in cut(" ".join(words)) for word in piece.split()] == words


def test_a_sentence_end_far_from_the_cut_is_not_waited_for() -> None:
    first = cut("Short. " + "word " * 400)[0]
    assert len(first) > LONGEST - 10


@given(st.text(alphabet="ab. \n,;!?。\u3000\té😀\x1f", max_size=6000))
@settings(deadline=None, max_examples=150)
def test_no_character_is_lost_but_blanks(text: str) -> None:
    pieces = cut(text)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece) <= LONGEST and piece == piece.strip() for piece in pieces)


def test_parts_are_numbered_from_zero_and_keyed_by_turn() -> None:
    passages = split(said("word " * 1000))
    assert [passage.part for passage in passages] == list(range(len(passages)))
    assert [passage.key for passage in passages][:3] == ["7:0", "7:1", "7:2"]


def test_one_clause_has_one_view() -> None:
    assert views("My dog is called Biscuit.") == {"7:0": "My dog is called Biscuit."}


def test_a_sentence_of_two_clauses_is_also_embedded_clause_by_clause() -> None:
    text = "I grew up in Oamaru, so the smell of the sea makes me homesick"
    assert views(text) == {
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
    clauses = list(views(text).values())[1:]
    assert len(clauses) == 2
    assert clauses[0].rstrip(".") == "I like green tea"
    assert clauses[1].endswith("my sister prefers coffee.") or clauses[1] == "My sister prefers coffee."


def test_scraps_of_under_three_words_get_no_view_of_their_own() -> None:
    found = views("Oh well. Never mind then, really. I live in Porto near the sea. Yes!")
    assert found["7:0/0"] == "Never mind then, really."
    assert found["7:0/1"] == "I live in Porto near the sea."
    assert len(found) == 3


def test_a_speaker_is_named_in_every_view() -> None:
    found = views("I grew up in Oamaru, so the smell of the sea makes me homesick", speaker="Ana")
    assert len(found) == 3
    assert all(text.startswith("Ana: ") for text in found.values())


def test_every_view_belongs_to_its_passage() -> None:
    passage = Passage(said("x"), 2, "I like green tea. My sister prefers coffee. We both dislike milk.")
    keys = list(passage.views())
    assert len(keys) == 4
    assert {passage_key(key) for key in keys} == {passage.key}
