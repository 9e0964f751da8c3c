"""The word-search baseline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memagent.agent.evaluation.benchmarks.bm25 import Bm25

TEXTS = [
    "My dog is called Biscuit.",
    "The weather in Lisbon was fine, and so was the food.",
    "Biscuit the dog chased another dog.",
    "I sold two bicycles in Köln.",
]


@pytest.fixture
def index() -> Iterator[Bm25]:
    bm25 = Bm25(TEXTS)
    yield bm25
    bm25.close()


def test_rare_words_weigh_more_than_common_ones(index: Bm25) -> None:
    assert index.rank("the weather", 10) == [1, 2]


def test_a_word_said_more_often_ranks_first(index: Bm25) -> None:
    assert index.rank("dog", 10) == [2, 0]


def test_only_documents_that_share_a_word_are_ranked(index: Bm25) -> None:
    assert index.rank("quantum", 10) == []


def test_words_are_stemmed_and_case_and_accents_do_not_count(index: Bm25) -> None:
    assert index.rank("BICYCLE", 10) == [3]
    assert index.rank("koln", 10) == [3]


def test_the_limit_is_kept(index: Bm25) -> None:
    assert index.rank("dog", 1) == [2]


@pytest.mark.parametrize("query", ["", "  ", "?!", '"', "()*^"])
def test_a_query_without_words_finds_nothing(index: Bm25, query: str) -> None:
    assert index.rank(query, 10) == []


@pytest.mark.parametrize("query", ['dog" OR text:"', "dog NOT dog", "NEAR(dog)", "dog*", "-dog", "AND dog's"])
def test_a_query_is_words_and_no_syntax(index: Bm25, query: str) -> None:
    assert 2 in index.rank(query, 10)


def test_equal_documents_keep_their_order() -> None:
    bm25 = Bm25(["one apple", "one pear", "one apple"])
    assert bm25.rank("apple", 10) == [0, 2]
    bm25.close()


def test_no_documents_are_no_trouble() -> None:
    bm25 = Bm25([])
    assert bm25.rank("apple", 10) == []
    bm25.close()


def test_a_sharp_s_is_found() -> None:
    bm25 = Bm25(["Die Straße ist lang.", "Es regnet."])
    try:
        assert bm25.rank("Straße", 10) == [0]
    finally:
        bm25.close()
