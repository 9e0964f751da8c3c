"""Words of texts in any script, and codes and numbers however they are separated."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memagent.backends.shared.words import any_word_query, content_words, literals, query_words, searchable


def found(text: str, query: str) -> bool:
    """Whether a full-text table with one text finds it by a query."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE documents USING fts5 (text, tokenize = 'porter unicode61')")
    database.execute("INSERT INTO documents VALUES (?)", (searchable(text),))
    words = query_words(query)
    matches = "SELECT count(*) FROM documents WHERE documents MATCH ?"
    return bool(words) and bool(database.execute(matches, (any_word_query(words),)).fetchone()[0])


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("我对花生过敏。", "花生"),
        ("我对花生过敏。", "花"),
        ("我对花生过敏。", "敏"),
        ("私はピーナッツアレルギーです。", "ピーナッツ"),
        ("ﾋﾟｰﾅｯﾂが苦手です。", "ピーナッツ"),
        ("ฉันแพ้ถั่วลิสง", "ถั่วลิสง"),
        ("Я живу в Порту.", "порту"),
        ("Cafe\u0301 Mia", "café"),
        ("Cafe\u0301 Mia", "CAFÉ"),
        ("My number is 555-123 4567.", "5551234567"),
        ("My number is 5551234567.", "555 123 4567"),
        ("My number is +49 (30) 1234567.", "49301234567"),
        ("It runs version 2.13.0.", "2.13.0"),
        ("Error E4012 happens.", "e4012"),
        ("Error E-4012 happens.", "E4012"),
        ("The plate is M-KX 4471.", "MKX4471"),
        ("The plate is MKX4471.", "M-KX 4471"),
        ("My IBAN is DE89 3704 0044 0532 0130 00.", "DE89370400440532013000"),
        ("My IBAN DE89 3704 0044 0532 0130 00 is new.", "DE89370400440532013000"),
        ("The id is 550e8400-e29b-41d4-a716-446655440000.", "550E8400E29B41D4A716446655440000"),
    ],
)
def test_a_text_is_found_by_a_word_of_it(text: str, query: str) -> None:
    assert found(text, query)


@pytest.mark.parametrize(
    ("text", "query"), [("我对花生过敏。", "生花"), ("I live in Porto.", "porta"), ("Error E4012.", "E4013")]
)
def test_a_text_is_not_found_by_what_it_does_not_hold(text: str, query: str) -> None:
    assert not found(text, query)


@given(st.text())
def test_any_text_has_words_that_are_a_query(text: str) -> None:
    if query_words(text) and "\0" not in text:
        assert found(text, text) in (True, False)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("Error E4012 on 3 pumps", ["e4012", "3"]),
        ("call 555-123 4567 today", ["555123", "4567", "5551234567"]),
        ("it costs 1,000.50 euros", ["1", "50"]),
        ("nothing of the kind", []),
        ("AB 123 CD", ["123", "ab123cd", "123cd"]),
        ("In 2026 I moved, and A 5 is a road", ["2026", "5"]),
        ("车库的密码是4719。", ["4719"]),
    ],
)
def test_literals_are_codes_and_numbers_without_their_separators(text: str, codes: list[str]) -> None:
    assert literals(text) == codes


def test_content_words_leave_stop_words_out() -> None:
    assert content_words("What is my dog's name? Dog!") == ["dog", "name"]
    assert content_words("我对什么过敏？") == ["我对", "对什", "什么", "么过", "过敏"]
