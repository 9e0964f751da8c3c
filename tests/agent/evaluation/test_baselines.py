"""The baselines: BM25 over whole sessions, and chance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memagent.agent.evaluation.baselines import SessionSearch

TEXTS = [
    "My dog is called Biscuit.",
    "The weather in Lisbon was fine, and so was the food.",
    "Biscuit the dog chased another dog.",
    "I sold two bicycles in Köln.",
]


@pytest.fixture
def index() -> Iterator[SessionSearch]:
    search = SessionSearch(TEXTS)
    yield search
    search.close()


def test_rare_words_weigh_more_than_common_ones(index: SessionSearch) -> None:
    assert index.rank("the weather", 10) == [1, 2]


def test_a_word_that_comes_more_often_ranks_first(index: SessionSearch) -> None:
    assert index.rank("dog", 10) == [2, 0]


def test_only_sessions_that_share_a_word_are_ranked(index: SessionSearch) -> None:
    assert index.rank("quantum", 10) == []


def test_words_are_stemmed_and_case_and_accents_do_not_count(index: SessionSearch) -> None:
    assert index.rank("BICYCLE", 10) == [3]
    assert index.rank("koln", 10) == [3]


def test_the_limit_is_kept(index: SessionSearch) -> None:
    assert index.rank("dog", 1) == [2]


@pytest.mark.parametrize("query", ["", "  ", "?!", '"', "()*^"])
def test_a_query_without_words_finds_nothing(index: SessionSearch, query: str) -> None:
    assert index.rank(query, 10) == []


@pytest.mark.parametrize("query", ['dog" OR text:"', "dog NOT dog", "NEAR(dog)", "dog*", "-dog", "AND dog's"])
def test_a_query_is_words_and_no_syntax(index: SessionSearch, query: str) -> None:
    assert 2 in index.rank(query, 10)


def test_equal_sessions_keep_their_order() -> None:
    search = SessionSearch(["one apple", "one pear", "one apple"])
    assert search.rank("apple", 10) == [0, 2]
    search.close()


def test_no_sessions_are_no_trouble() -> None:
    search = SessionSearch([])
    assert search.rank("apple", 10) == []
    search.close()


def test_a_sharp_s_is_found() -> None:
    search = SessionSearch(["Die Straße ist lang.", "Es regnet."])
    try:
        assert search.rank("Straße", 10) == [0]
    finally:
        search.close()
