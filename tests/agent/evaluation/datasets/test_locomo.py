"""Reading LoCoMo, and what every benchmark file is checked for."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.evaluation.datasets import LOADERS, Dataset
from memagent.agent.evaluation.datasets.dataset import Case
from memagent.agent.evaluation.datasets.locomo import load
from memagent.backends.errors import InputError
from tests.agent.evaluation.datasets.files import LOCOMO, locomo_file, write


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load(locomo_file(tmp_path))


@pytest.fixture
def records() -> list[dict[str, Any]]:
    """Records a test may spoil."""
    return copy.deepcopy(LOCOMO)


def read(tmp_path: Path, records: object) -> list[Case]:
    return list(load(write(tmp_path / "spoilt.json", records)))


def refused(tmp_path: Path, records: object) -> str:
    with pytest.raises(InputError) as caught:
        load(write(tmp_path / "spoilt.json", records))
    return str(caught.value)


def test_a_file_is_counted_before_anything_is_measured(dataset: Dataset) -> None:
    assert (dataset.name, dataset.reported_categories) == ("locomo", "1-4")
    assert (dataset.cases, dataset.turns) == (2, 8)
    assert dataset.sessions == {"conv-1": 3, "conv-2": 1}
    assert dataset.questions == (*(("conv-1", str(number)) for number in range(5)), ("conv-2", "0"))
    assert len(dataset.sha256) == 64
    assert LOADERS["locomo"] is load


def test_sessions_come_by_number_with_their_time_and_speakers(dataset: Dataset) -> None:
    case = next(iter(dataset))
    assert [session[0].session for session in case.sessions] == ["session_1", "session_2", "session_10"]
    first = case.sessions[0][0]
    assert first.created_at == datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
    assert case.sessions[2][0].created_at == datetime(2023, 7, 2, 0, 0, tzinfo=UTC)
    assert [(turn.role, turn.speaker) for turn in case.sessions[0][:2]] == [
        ("user", "Ana"),
        ("assistant", "Ben"),
    ]


def test_a_caption_follows_what_was_said(dataset: Dataset) -> None:
    assert next(iter(dataset)).sessions[0][2].text == "Look! [a red bicycle]"


def test_a_turn_without_words_but_with_a_caption_stays_and_one_without_either_goes(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    turns = records[0]["conversation"]["session_1"]
    turns[0]["text"] = " "
    turns[2]["text"] = ""
    case = read(tmp_path, records)[0]
    assert [turn.text for turn in case.sessions[0]] == ["Mine chases squirrels.", " [a red bicycle]"]
    assert case.questions[0].turns == frozenset()
    assert case.questions[2].turns == {2}


def test_evidence_is_cut_out_of_odd_separators_and_unknown_turns_are_dropped(dataset: Dataset) -> None:
    question = next(iter(dataset)).questions[1]
    assert question.turns == {0, 4, 5}
    assert question.sessions == {"session_1", "session_2", "session_10"}


@pytest.mark.parametrize(
    ("evidence", "places"),
    [
        (["D1:1", "D1:2"], {0, 1}),
        (["D1:1;D1:2"], {0, 1}),
        (["D1:1 D1:2 D2:1"], {0, 1, 3}),
        (["D1:1, D2:1"], {0, 3}),
        (["(D1:1)"], {0}),
        (["D"], set()),
        (["D1:10"], set()),
        (["D:11:26"], set()),
        ([], set()),
    ],
)
def test_evidence_as_it_stands_in_the_wild(
    tmp_path: Path, records: list[dict[str, Any]], evidence: list[str], places: set[int]
) -> None:
    records[0]["qa"][0]["evidence"] = evidence
    assert read(tmp_path, records)[0].questions[0].turns == places


def test_category_5_has_no_answer_but_its_own_category(dataset: Dataset) -> None:
    questions = next(iter(dataset)).questions
    assert [question.answerable for question in questions] == [True, True, True, True, False]
    assert [question.category for question in questions] == ["4", "1", "2", "3", "5"]
    assert questions[4].answers == ()


def test_a_number_is_an_answer(dataset: Dataset) -> None:
    assert next(iter(dataset)).questions[2].answers == ("2023",)


def test_fields_of_later_editions_are_ignored(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    records[0]["event_summary"] = {"events": []}
    records[0]["conversation"]["session_1"][0]["img_url"] = ["http://example.org"]
    assert read(tmp_path, records)[0].sessions[0][0].text == "My dog is called Biscuit."


def test_an_id_said_twice_leaves_the_places_of_the_others(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    records[0]["conversation"]["session_1"][1]["dia_id"] = "D1:1"
    try:
        case = read(tmp_path, records)[0]
    except InputError:
        return
    said = [turn.text for session in case.sessions for turn in session]
    assert {said[place] for place in case.questions[2].turns} == {"I moved to Lisbon."}


# what is wrong with a file


def test_a_file_cut_short_says_so_and_nothing_was_measured(tmp_path: Path) -> None:
    path = locomo_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"is cut short or damaged(?s:.*)nothing was measured") as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_message_about_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = locomo_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{}", '{"a": [1]}', "null", "sample_id\n", "\ufeff"])
def test_what_is_no_list_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "locomo.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="is not a JSON list of records"):
        load(path)


@pytest.mark.parametrize("content", ["[}", "[,]", '[{"a" 1}]', "[nothing]"])
def test_what_is_no_json_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "locomo.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="damaged|not JSON"):
        load(path)


def test_bytes_that_are_no_utf_8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "locomo.json"
    path.write_bytes(json.dumps(LOCOMO).encode().replace(b"Biscuit", b"Bisc\xff"))
    with pytest.raises(InputError, match="damaged|not JSON"):
        load(path)


def test_a_byte_order_mark_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "locomo.json"
    path.write_text(json.dumps(LOCOMO), encoding="utf-8-sig")
    assert load(path).cases == 2


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: No such file"):
        load(tmp_path / "missing.json")
    with pytest.raises(InputError, match=r"cannot be read: Is a directory"):
        load(tmp_path)


def test_an_empty_list_holds_no_questions(tmp_path: Path) -> None:
    assert "holds no questions: expected a list of locomo records" in refused(tmp_path, [])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("sample_id",), "record 2: sample_id: Field required."),
        (("conversation",), "record 2: conversation: Field required."),
        (("qa",), "record 2: qa: Field required."),
        (("qa", 0, "question"), "record 2: qa.0.question: Field required."),
        (("qa", 0, "category"), "record 2: qa.0.category: Field required."),
        (
            ("conversation", "session_1", 1, "dia_id"),
            "record 2 (conv-2): session_1[1]: dia_id: Field required.",
        ),
        (
            ("conversation", "session_1", 0, "text"),
            "record 2 (conv-2): session_1[0]: text: Field required.",
        ),
        (("conversation", "session_1_date_time"), "record 2 (conv-2): session_1_date_time is missing"),
    ],
)
def test_a_missing_field_is_named_with_its_record(
    tmp_path: Path, records: list[dict[str, Any]], keys: tuple[Any, ...], said: str
) -> None:
    holder: Any = records[1]
    for key in keys[:-1]:
        holder = holder[key]
    del holder[keys[-1]]
    assert said in refused(tmp_path, records)


@pytest.mark.parametrize("category", [0, 6, "two"])
def test_a_category_that_does_not_exist_is_refused(
    tmp_path: Path, records: list[dict[str, Any]], category: object
) -> None:
    records[0]["qa"][3]["category"] = category
    assert "record 1: qa.3.category: " in refused(tmp_path, records)


@pytest.mark.parametrize("date", ["8 May 2023", "", 7, None])
def test_a_date_in_another_format_is_refused(
    tmp_path: Path, records: list[dict[str, Any]], date: object
) -> None:
    records[0]["conversation"]["session_2_date_time"] = date
    said = refused(tmp_path, records)
    assert "record 1 (conv-1): session_2_date_time is missing or not like '1:56 pm on 8 May, 2023'" in said


def test_a_session_must_be_a_list(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    records[0]["conversation"]["session_2"] = "hello"
    assert "record 1 (conv-1): session_2 is not a list of turns." in refused(tmp_path, records)


def test_an_id_that_comes_again_is_refused(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    records[1]["sample_id"] = "conv-1"
    assert "record 2: the id 'conv-1' was there before." in refused(tmp_path, records)


@pytest.mark.parametrize("record", ["text", 7, None, [1]])
def test_a_record_that_is_no_object_is_refused(tmp_path: Path, record: object) -> None:
    said = refused(tmp_path, [record])
    assert "record 1: " in said
    assert ": :" not in said


def test_a_text_no_journal_takes_is_found_before_anything_is_measured(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    """Either the file is refused with the place, or the text is mended; LongMemEval's loader mends it."""
    records[1]["conversation"]["session_1"][0]["text"] = "I bake\0 bread."
    try:
        cases = read(tmp_path, records)
    except InputError as error:
        assert "record 2" in str(error)  # noqa: PT017
    else:
        assert "\0" not in cases[1].sessions[0][0].text
