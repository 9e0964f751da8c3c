"""Reading LongMemEval."""

from __future__ import annotations

import copy
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.evaluation.datasets import LOADERS
from memagent.agent.evaluation.datasets.dataset import Case
from memagent.agent.evaluation.datasets.longmemeval import load
from memagent.backends.errors import InputError
from tests.agent.evaluation.datasets.files import LONGMEMEVAL, write

REAL = os.environ.get("MEMAGENT_LONGMEMEVAL")


@pytest.fixture
def records() -> list[dict[str, Any]]:
    """Records a test may spoil."""
    return copy.deepcopy(LONGMEMEVAL)


def read(tmp_path: Path, records: object) -> list[Case]:
    return list(load(write(tmp_path / "longmemeval.json", records)))


def refused(tmp_path: Path, records: object) -> str:
    with pytest.raises(InputError) as caught:
        load(write(tmp_path / "longmemeval.json", records))
    return str(caught.value)


def test_every_record_is_a_conversation_with_one_question(tmp_path: Path) -> None:
    dataset = load(write(tmp_path / "longmemeval.json", LONGMEMEVAL))
    assert (dataset.name, dataset.reported_categories, dataset.cases, dataset.turns) == (
        "longmemeval",
        "all",
        2,
        5,
    )
    assert dataset.questions == (("gpt4_1", "gpt4_1"), ("gpt4_2_abs", "gpt4_2_abs"))
    assert dataset.sessions == {"gpt4_1": 3, "gpt4_2_abs": 1}
    assert LOADERS["longmemeval"] is load


def test_sessions_are_sorted_by_date(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    case = read(tmp_path, records)[0]
    assert [session[0].created_at for session in case.sessions] == [
        datetime(2023, 5, 20, 2, 20, tzinfo=UTC),
        datetime(2023, 5, 20, 2, 21, tzinfo=UTC),
        datetime(2023, 5, 25, 11, 0, tzinfo=UTC),
    ]


def test_sessions_of_one_minute_stay_in_the_order_of_the_file(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    records[0]["haystack_dates"] = ["2023/05/20 (Sat) 02:21"] * 3
    case = read(tmp_path, records)[0]
    assert [session[0].text for session in case.sessions] == [
        "I bought a second bicycle.",
        "Tell me about squirrels.",
        "I own a bicycle.",
    ]


def test_evidence_places_count_the_turns_that_are_kept(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    case = read(tmp_path, records)[0]
    said = [turn.text for session in case.sessions for turn in session]
    assert said == [
        "I own a bicycle.",
        "Tell me about squirrels.",
        "I bought a second bicycle.",
        "Congratulations!",
    ]
    assert case.questions[0].turns == {0, 2}


def test_a_session_id_that_comes_twice_names_two_sessions(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    case = read(tmp_path, records)[0]
    assert [{turn.session for turn in session} for session in case.sessions] == [
        {"answer_a"},
        {"noise"},
        {"answer_a again"},
    ]
    assert case.questions[0].sessions == {"answer_a", "answer_a again"}


def test_an_id_that_looks_like_a_second_one_stays_apart(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    records[0]["haystack_session_ids"] = ["answer_a", "answer_a again", "answer_a"]
    case = read(tmp_path, records)[0]
    assert len({session[0].session for session in case.sessions}) == 3


def test_an_evidence_session_without_words_cannot_be_asked_for(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    records[0]["haystack_sessions"][2] = [{"role": "user", "content": " "}]
    case = read(tmp_path, records)[0]
    assert case.questions[0].sessions <= {session[0].session for session in case.sessions}


def test_abs_has_no_answer(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    questions = [case.questions[0] for case in read(tmp_path, records)]
    assert [(question.answerable, question.category) for question in questions] == [
        (True, "multi-session"),
        (False, "single-session-user"),
    ]
    assert questions[0].answers == ("2",)
    assert not questions[1].turns
    assert questions[1].sessions == {"answer_b"}


def test_an_answer_session_outside_the_haystack_is_dropped(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    records[0]["answer_session_ids"] = ["noise", "elsewhere"]
    assert read(tmp_path, records)[0].questions[0].sessions == {"noise"}


@pytest.mark.parametrize("field", ["haystack_dates", "haystack_session_ids", "haystack_sessions"])
def test_lists_of_different_lengths_are_refused(
    tmp_path: Path, records: list[dict[str, Any]], field: str
) -> None:
    records[0][field].pop()
    assert "record 1 (gpt4_1): dates, ids and sessions of the haystack differ in number." in refused(
        tmp_path, records
    )


@pytest.mark.parametrize("date", ["2023-05-20", "2023/13/20 (Sat) 02:21", ""])
def test_a_date_in_another_format_is_refused(
    tmp_path: Path, records: list[dict[str, Any]], date: str
) -> None:
    records[1]["haystack_dates"] = [date]
    said = f"record 2 (gpt4_2_abs): the date {date!r} is not like '2023/05/20 (Sat) 02:21'."
    assert said in refused(tmp_path, records)


@pytest.mark.parametrize(
    "field",
    [
        "question_id",
        "question_type",
        "question",
        "answer",
        "haystack_dates",
        "haystack_session_ids",
        "haystack_sessions",
        "answer_session_ids",
    ],
)
def test_a_missing_field_is_named_with_its_record(
    tmp_path: Path, records: list[dict[str, Any]], field: str
) -> None:
    del records[1][field]
    assert f"record 2: {field}: Field required." in refused(tmp_path, records)


def test_a_turn_is_checked_too(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    records[0]["haystack_sessions"][1][0]["role"] = "robot"
    assert "record 1: haystack_sessions.1.0.role: " in refused(tmp_path, records)


def test_an_id_that_comes_again_is_refused(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    assert "record 2: the id 'gpt4_1' was there before." in refused(tmp_path, [records[0], records[0]])


def test_a_file_of_the_other_benchmark_is_refused(tmp_path: Path) -> None:
    assert "record 1: question_id: Field required." in refused(tmp_path, [{"sample_id": "conv-1"}])


@pytest.mark.skipif(REAL is None, reason="MEMAGENT_LONGMEMEVAL does not name a published LongMemEval file")
def test_a_published_file_is_read() -> None:
    assert REAL is not None
    dataset = load(Path(REAL))
    assert dataset.cases == len(dataset.questions) > 0
    for case in dataset:
        names = [session[0].session for session in case.sessions]
        assert len(set(names)) == len(names)
        question = case.questions[0]
        assert question.sessions <= set(names)
        assert all(place < sum(map(len, case.sessions)) for place in question.turns)
        times = [session[0].created_at for session in case.sessions]
        assert times == sorted(times, key=lambda time: time or datetime.min.replace(tzinfo=UTC))
