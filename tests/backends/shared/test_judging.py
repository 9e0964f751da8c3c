"""Judging what a search found, for any memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from memagent.backends.bm25.backend import RELEVANCE as BM25_RELEVANCE
from memagent.backends.rag.backend import RELEVANCE as RAG_RELEVANCE
from memagent.backends.shared.judging import ANOTHER_EMBEDDER, SearchHit, author_of, judge, relevant
from memagent.backends.shared.memory_need import memory_need
from memagent.backends.titans.backend import RELEVANCE as TITANS_RELEVANCE
from tests.backends.turns import make_turn

QUESTION = "Where do I work?"
ACME, GLOBEX = "I work at Acme Corp as an engineer.", "I left Acme Corp and started at Globex last week."
WEIGHTS = {"rag": RAG_RELEVANCE, "bm25": BM25_RELEVANCE, "titans": TITANS_RELEVANCE}
ANA = ("Ana", False)
BEGAN = datetime(2026, 3, 1, tzinfo=UTC)


def found(text: str, seq: int, author: tuple[str | None, bool] = ANA, **fields: float) -> SearchHit:
    return SearchHit(
        text, (BEGAN + timedelta(days=seq), seq), author, **{"score": 0.0, "coverage": 0.0, **fields}
    )


def chances(
    question: str, items: list[SearchHit], memory: str = "bm25", embedder: str = ANOTHER_EMBEDDER
) -> list[float]:
    return judge(question, memory_need(question), items, WEIGHTS[memory], embedder)


@pytest.mark.parametrize(
    ("memory", "embedder"),
    [("bm25", ANOTHER_EMBEDDER), ("titans", "all-minilm-l6-v2"), ("titans", "hashing"), ("rag", "hashing")],
)
@pytest.mark.parametrize(
    ("question", "fact", "other"),
    [
        ("What is my dog called?", "My dog is called Biscuit.", "The parcel came on Monday."),
        ("Wie heißt mein Hund?", "Mein Hund heißt Keks.", "Das Paket kam am Montag."),
    ],
)
def test_what_answers_is_likelier_than_what_does_not(
    memory: str, embedder: str, question: str, fact: str, other: str
) -> None:
    items = [found(fact, 1, coverage=0.7, cosine=0.7), found(other, 2, cosine=0.1)]
    likely, unlikely = chances(question, items, memory, embedder)
    assert likely > 0.3 > unlikely


def test_what_supersedes_a_relevant_turn_is_as_relevant() -> None:
    both = [found(ACME, 1, coverage=1.0), found(GLOBEX, 2)]
    assert chances(QUESTION, both)[1] >= chances(QUESTION, both)[0]
    other_speaker = [found(ACME, 1, coverage=1.0), found(GLOBEX, 2, ("Bob", False))]
    assert chances(QUESTION, other_speaker)[1] < chances(QUESTION, other_speaker)[0]


def test_what_was_said_later_supersedes_whatever_its_number() -> None:
    """A corrected turn gets a new number and keeps its time."""
    corrected = replace(found(ACME, 1, coverage=1.0), order=(BEGAN, 3))
    both = [corrected, found(GLOBEX, 2)]
    assert chances(QUESTION, both)[1] >= chances(QUESTION, both)[0]


def test_for_another_embedder_the_multilingual_cosine_stands_for_its_own() -> None:
    near, far = ([found(ACME, 1, cosine=cosine)] for cosine in (0.9, -0.9))
    assert chances(QUESTION, near, "rag", "hashing") == chances(QUESTION, far, "rag", "hashing")
    own = "all-minilm-l6-v2+multilingual"
    assert chances(QUESTION, near, "rag", own) > chances(QUESTION, far, "rag", own)


def test_nothing_found_is_nothing_relevant() -> None:
    assert chances(QUESTION, []) == []
    assert relevant([], [], 0.1, 0.1) == []


def test_statements_come_before_questions() -> None:
    items = [found("Where do I work?", 1), found(ACME, 2)]
    assert relevant([0.9, 0.5], items, 0.1, 0.1) == [1, 0]


def test_an_author_is_a_speaker_and_a_side() -> None:
    assert author_of(make_turn(1, "hello", speaker="Ana")) == ("Ana", False)
    assert author_of(make_turn(1, "hello", role="assistant")) == (None, True)
    assert author_of(make_turn(1, "hello", role="assistant", speaker="Ben")) == ("Ben", False)
