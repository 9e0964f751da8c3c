"""The learned ranking of candidates, and what is one and the same."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from memagent.backends.rag.ranking import FEATURES, Candidate, features, rank


def candidate(
    seq: int, text: str = "", *, cosine: float = 0.3, rank_: int | None = None, **fields: object
) -> Candidate:
    values: dict[str, object] = {
        "key": f"{seq}:0",
        "seq": seq,
        "session": "s",
        "created_at": datetime(2026, 3, 1, tzinfo=UTC),
        "speaker": None,
        "by_assistant": False,
        "text": text or f"Statement number {seq}.",
        "cosine": cosine,
        "cosine_rank": rank_,
        "bm25": 0.0,
        "own_bm25": 0.0,
        "bm25_rank": None,
    }
    return Candidate(**(values | fields))  # type: ignore[arg-type]


def feature(name: str, query: str, candidates: list[Candidate]) -> list[float]:
    return [float(value) for value in features(query, candidates)[:, FEATURES.index(name)]]


def test_a_higher_cosine_ranks_higher() -> None:
    near, far = candidate(1, cosine=0.8, rank_=1), candidate(2, cosine=0.2, rank_=2)
    assert [item.candidate for item in rank("Where?", [far, near], asks=True)] == [near, far]


def test_words_help_a_turn_that_no_vector_found() -> None:
    by_words = candidate(1, cosine=0.2, bm25=9.0, own_bm25=9.0, bm25_rank=1)
    assert rank("Where?", [candidate(2, rank_=1), by_words], asks=True)[0].candidate == by_words


def test_a_turn_and_its_answer_count_for_each_other() -> None:
    candidates = [candidate(1, cosine=0.9), candidate(2, cosine=0.1, by_assistant=True)]
    np.testing.assert_allclose(feature("cosine_at_-1", "Where?", candidates), [0.0, 0.8], rtol=1e-6)
    np.testing.assert_allclose(feature("cosine_at_+1", "Where?", candidates), [0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("other", [{"by_assistant": False}, {"by_assistant": True, "session": "another"}])
def test_the_same_speaker_and_other_sessions_do_not_count(other: dict[str, object]) -> None:
    candidates = [candidate(1, cosine=0.9), candidate(2, cosine=0.1, **other)]  # type: ignore[arg-type]
    assert feature("cosine_at_-1", "Where?", candidates) == [0.0, 0.0]


def test_a_speaker_who_is_named_counts_in_any_case() -> None:
    candidates = [candidate(1, speaker="Caroline"), candidate(2, speaker="Melanie"), candidate(3)]
    assert feature("speaker_named", "What does CAROLINE do?", candidates) == [1.0, 0.0, 0.0]


def test_turns_of_the_same_words_are_one_with_all_their_turns() -> None:
    candidates = [candidate(1, "I like tea."), candidate(2, "i like TEA"), candidate(3, "I like coffee.")]
    assert sorted(sorted(item.seqs) for item in rank("What do I like?", candidates, asks=True)) == [
        [1, 2],
        [3],
    ]


def test_what_a_person_said_stands_for_what_the_assistant_repeated() -> None:
    candidates = [
        candidate(1, "I like tea."),
        candidate(2, "I like tea.", by_assistant=True),
        candidate(3, "I like tea"),
    ]
    (item,) = rank("What do I like?", candidates, asks=True)
    assert (item.seqs, item.candidate.by_assistant) == ((3, 1, 2), False)


def test_the_same_question_is_no_candidate_but_the_same_statement_is() -> None:
    assert rank("Where do I live?", [candidate(1, "Where do I live?!")], asks=True) == []
    assert len(rank("I live in Porto.", [candidate(1, "I live in Porto")], asks=False)) == 1


def test_texts_without_letters_stay_apart() -> None:
    assert len(rank("Where?", [candidate(1, "!!"), candidate(2, "😀")], asks=True)) == 2


def test_no_candidates_are_ranked_as_none() -> None:
    assert rank("Where?", [], asks=True) == []
