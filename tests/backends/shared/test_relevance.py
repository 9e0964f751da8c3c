"""Abstention: what makes a turn relevant, and which relevant turns stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memagent.backends
from memagent.agent.models.catalogue import DEFAULT_EMBEDDER
from memagent.backends.rag.backend import RELEVANCE
from memagent.backends.shared.linear import named_weights, weight_vector
from memagent.backends.shared.relevance import FEATURES, Evidence, probabilities, select

EMBEDDER = f"{DEFAULT_EMBEDDER}+multilingual"
CHANCES = st.lists(st.floats(0.0, 1.0), max_size=20)


def chance(message: str = "Where do I live?", *, need: float = 2.0, **evidence: object) -> float:
    """The probability of one turn that stands out from nine others."""
    fields: dict[str, object] = {
        "cosine": 0.5,
        "multilingual_cosine": 0.5,
        "coverage": 0.5,
        "score": 0.0,
        "text": "I live in Porto.",
    }
    others = [Evidence(0.1, 0.1, 0.0, -5.0, "Something else.")] * 9
    judged = Evidence(**(fields | evidence))  # type: ignore[arg-type]
    return probabilities(message, need, [judged, *others], RELEVANCE, EMBEDDER)[0]


def test_more_similarity_and_more_covered_words_make_a_turn_likelier() -> None:
    assert chance(cosine=0.2) < chance(cosine=0.6)
    assert chance(coverage=0.0) < chance(coverage=1.0)


def test_a_message_that_needs_memory_makes_its_turns_likelier() -> None:
    assert chance(need=-3.0) < chance(need=0.0) < chance(need=3.0)


def test_a_remembered_question_says_less_than_a_statement() -> None:
    assert chance(text="Where do I live?!") > chance(text="Where do I live, Porto?")


def test_what_the_assistant_said_is_doubted() -> None:
    assert chance(by_assistant=True) < chance()


@pytest.mark.parametrize("code", ["E4012", "555-123-4567", "550e8400-e29b-41d4-a716-446655440000", "2.13.0"])
def test_a_literal_makes_the_turn_that_holds_it_likelier(code: str) -> None:
    with_code = chance(code, need=-1.0, cosine=0.3, coverage=0.0, text=f"It was {code}.")
    assert with_code > chance(code, need=-1.0, cosine=0.3, coverage=0.0, text="It was E4013.")


def test_there_may_be_no_evidence() -> None:
    assert probabilities("Where do I live?", 2.0, [], RELEVANCE, EMBEDDER) == []


# selecting


@given(CHANCES, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_what_is_selected_is_likely_enough_and_near_the_best_in_the_order_given(
    chances: list[float], threshold: float, margin: float
) -> None:
    places = select(chances, [False] * len(chances), threshold, margin)
    best = max((value for value in chances if value >= threshold), default=0.0)
    assert places == [
        place for place, value in enumerate(chances) if value >= threshold and value >= margin * best
    ]


def test_a_question_never_displaces_a_statement() -> None:
    assert select([0.99, 0.5], [True, False], 0.4, 0.8) == [1, 0]
    assert select([0.99, 0.5], [False, False], 0.4, 0.8) == [0]
    assert select([0.99, 0.5], [True, True], 0.4, 0.8) == [0]


@pytest.mark.parametrize(
    "file",
    sorted(Path(memagent.backends.__file__).parent.glob("*/relevance.json")),
    ids=lambda file: file.parent.name,
)
def test_the_shipped_weights_are_those_of_todays_features(file: Path) -> None:
    assert all(len(weight_vector(file, name, FEATURES)) == len(FEATURES) for name in named_weights(file))
    assert all(set(weights) == set(FEATURES) for weights in named_weights(file).values())
