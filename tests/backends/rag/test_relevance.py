"""Abstention: what speaks for a chunk, and which messages are about the user."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memagent.backends.rag.relevance import (
    ASSISTANT_PENALTY,
    COVERAGE_WEIGHT,
    MARGIN,
    QUESTION_PENALTY,
    Evidence,
    RelevanceFilter,
    is_question,
)

PERSONAL, GENERAL = 0.36, 0.60
COSINES, SHARES = st.floats(-1.0, 1.0), st.floats(0.0, 1.0)
TEXTS = st.sampled_from(["My dog is called Biscuit.", "What is my dog called?", "Caroline: I paint."])
QUERIES = st.sampled_from(
    [
        "What is my dog called?",
        "What does Caroline do?",
        "Do you recall what I said?",
        "I walked the dog.",
        "Rome",
    ]
)
EVIDENCE = st.builds(Evidence, COSINES, SHARES, TEXTS, st.booleans())


def judge(query: str) -> RelevanceFilter:
    return RelevanceFilter(query, personal_threshold=PERSONAL, general_threshold=GENERAL)


def score(
    query: str, cosine: float, coverage: float = 0.0, text: str = "x", assistant: bool = False
) -> float:
    return judge(query).score(Evidence(cosine, coverage, text, assistant))


def is_personal(query: str, text: str = "a remembered text") -> bool:
    """Whether the lower threshold holds: a cosine between both thresholds is enough."""
    return score(query, (PERSONAL + GENERAL) / 2, text=text) >= 0


# monotone


@given(QUERIES, EVIDENCE, COSINES)
@settings(deadline=None)
def test_more_cosine_never_weakens_a_chunk(query: str, one: Evidence, cosine: float) -> None:
    low, high = sorted([one.cosine, cosine])
    relevance = judge(query)
    assert relevance.score(Evidence(low, one.coverage, one.text, one.by_assistant)) <= relevance.score(
        Evidence(high, one.coverage, one.text, one.by_assistant)
    )


@given(QUERIES, EVIDENCE, SHARES)
@settings(deadline=None)
def test_more_covered_words_never_weaken_a_chunk(query: str, one: Evidence, share: float) -> None:
    low, high = sorted([one.coverage, share])
    relevance = judge(query)
    assert relevance.score(Evidence(one.cosine, low, one.text, one.by_assistant)) <= relevance.score(
        Evidence(one.cosine, high, one.text, one.by_assistant)
    )


@given(QUERIES, st.lists(EVIDENCE, min_size=1, max_size=6), COSINES, SHARES)
@settings(deadline=None)
def test_a_selected_chunk_stays_selected_when_it_gets_stronger(
    query: str, evidence: list[Evidence], cosine: float, share: float
) -> None:
    relevance = judge(query)
    before = {str(place): one for place, one in enumerate(evidence)}
    first = before["0"]
    stronger = Evidence(max(cosine, first.cosine), max(share, first.coverage), first.text, first.by_assistant)
    if "0" in relevance.select(before):
        assert "0" in relevance.select(before | {"0": stronger})
    else:
        assert relevance.score(first) < max(map(relevance.score, before.values())) or (
            relevance.score(first) < 0
        )


@given(QUERIES, st.lists(EVIDENCE, max_size=8))
@settings(deadline=None)
def test_what_is_selected_is_strong_enough_and_near_the_strongest_in_the_order_given(
    query: str, evidence: list[Evidence]
) -> None:
    relevance = judge(query)
    given_ = {str(place): one for place, one in enumerate(evidence)}
    scores = {key: relevance.score(one) for key, one in given_.items()}
    best = max(scores.values(), default=0.0)
    assert relevance.select(given_) == [
        key for key, value in scores.items() if value >= 0 and value >= best - MARGIN
    ]


# thresholds


def test_a_question_about_the_user_may_rest_on_a_moderate_cosine() -> None:
    assert score("What is my dog called?", PERSONAL) == pytest.approx(0.0)
    assert score("What is a dog?", GENERAL) == pytest.approx(0.0)
    assert score("My dog is ill.", GENERAL) == pytest.approx(0.0)


def test_covered_words_help_a_question_about_the_user_only() -> None:
    assert score("What is my dog called?", 0.3, coverage=1.0) == pytest.approx(
        score("What is my dog called?", 0.3) + COVERAGE_WEIGHT
    )
    assert score("What is a dog?", 0.3, coverage=1.0) == score("What is a dog?", 0.3)


@pytest.mark.parametrize("query", ["What is my dog called?", "What is a dog?"])
def test_a_remembered_question_says_less_than_a_statement(query: str) -> None:
    doubted = score(query, 0.7, text="Is my dog called Biscuit? ")
    assert doubted == pytest.approx(score(query, 0.7, text="My dog is called Biscuit.") - QUESTION_PENALTY)


@pytest.mark.parametrize("query", ["What is my dog called?", "What is a dog?"])
def test_what_the_assistant_said_is_doubted(query: str) -> None:
    assert score(query, 0.7, assistant=True) == pytest.approx(score(query, 0.7) - ASSISTANT_PENALTY)


@pytest.mark.parametrize("query", ["What did you tell me about dogs?", "Was that your idea?", "Is it yours?"])
def test_asked_what_it_said_the_assistant_is_not_doubted(query: str) -> None:
    assert score(query, 0.7, assistant=True) == score(query, 0.7)


def test_a_much_stronger_chunk_displaces_the_others() -> None:
    relevance = judge("What is my dog called?")
    near, far = Evidence(0.6, 0.0, "a"), Evidence(0.45, 0.0, "b")
    assert relevance.select({"a": near, "b": far}) == ["a"]
    assert relevance.select({"b": far}) == ["b"]
    assert relevance.select({}) == []


# what is a question, and about whom


@pytest.mark.parametrize(
    "text",
    [
        "Where do I live?",
        "where do I live",
        "What's my name",
        "whats my name",
        "Remind me of my sister's name",
        "So, what is my name",
        "hey when is my birthday",
        "My name is what?",
        "any idea where I put my keys",
        "DO I LIKE TEA",
        "Tell me your name, will you?  ",
    ],
)
def test_questions_are_recognised(text: str) -> None:
    assert is_question(text)


@pytest.mark.parametrize(
    "text",
    [
        "I live in Porto.",
        "My name is Ana",
        "Whatever you say.",
        "Willow trees grow here",
        "Canned soup again",
        "She asked: why? Nobody knew.",
        "",
    ],
)
def test_statements_are_not_questions(text: str) -> None:
    assert not is_question(text)


@pytest.mark.parametrize(
    "query",
    [
        "What is my dog called?",
        "Where do I live?",
        "Which of these is mine?",
        "Who told us that?",
        "How old was I in 1999?",
        "Tell me, what is our address?",
        "How do I get to my office?",
    ],
)
def test_questions_about_the_user_are_recognised(query: str) -> None:
    assert is_personal(query)


@pytest.mark.parametrize(
    "query",
    [
        "What is the capital of France?",
        "How do I sort a list?",
        "How can we boil eggs?",
        "Can you give me a recipe?",
        "Could you tell us about Rome?",
        "Is Imola in Italy?",
        "I live in Porto.",
        "My dog is ill",
    ],
)
def test_other_messages_need_more_cosine(query: str) -> None:
    assert not is_personal(query)


def test_a_question_about_somebody_the_chunk_names_counts_as_personal() -> None:
    assert is_personal("What does Caroline's brother paint?", "Caroline: he paints the sea.")
    assert not is_personal("What does Caroline paint?", "Melanie: I paint the sea.")
    assert not is_personal("caroline paints what?", "Caroline: I paint the sea.")


def test_capitalised_stop_words_are_not_names() -> None:
    assert not is_personal("Where Does That come from?", "Where Does That come from, he asked.")
