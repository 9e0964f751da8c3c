"""What a scenario may say: short forms, defaults, conversions, and the way to JSON and back."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from memagent.agent.evaluation.scenarios import Scenario, schema
from memagent.agent.evaluation.scenarios.expect import Expectation, Matcher, ReplyExpectation
from memagent.agent.evaluation.scenarios.schema import (
    AskStep,
    DistractorSpec,
    DistractorStep,
    ForgetStep,
    MaintenanceStep,
    SayStep,
    TurnSpec,
    WaitStep,
)
from tests.agent.evaluation.scenarios import only_scenario

ASK = {"ask": "Where?", "expect": {"recalled": "Porto"}}
EVERYTHING = """
    name: everything at once
    about: All that can be said.
    tags: [update, long gaps]
    backends: [rag, in_memory]
    user: eva
    start: 2025-03-04T05:06:07+02:00
    steps:
      - session: january
        say:
          - I live in Lisbon.
          - assistant: A lovely city.
            speaker: Bot
            at: 2025-01-01T10:00:00
          - {role: tool, text: "sunny, 20 degrees"}
      - distractors: {count: 12, seed: 7, kind: daily, sessions: 3}
        user: ben
      - wait: 3 weeks
      - forget: Lisbon
      - forget: {session: january}
      - do: consolidate
      - do: rebuild
      - wait: 90 minutes
      - ask: Where do I live now?
        session: february
        limit: 9
        expect:
          recalled:
            - {contains: [Porto, moved], within: 1, session: s, role: user, speaker: Eva, on: 2025-02-01}
            - Lisbon
          not_recalled: Berlin
          order: [Porto, Lisbon]
          at_most: 3
          recall_seconds: 0.5
          reply_seconds: 20
          reply: {contains: Porto, any_of: [now, today], lacks: Lisbon, matches: "por.o$"}
      - ask: And what else?
        expect: {nothing: true}
"""


def scenario(*steps: dict[str, Any], **other: Any) -> Scenario:
    return Scenario.model_validate({"name": "a", "steps": [*steps, ASK]} | other)


def expectation(**fields: Any) -> Expectation:
    return Expectation.model_validate(fields)


def turn_spec(value: object) -> TurnSpec:
    return TurnSpec.model_validate(value)


def test_each_kind_of_step_is_told_by_its_action(tmp_path: Path) -> None:
    steps = only_scenario(tmp_path, EVERYTHING).scenario.steps
    assert [type(step) for step in steps] == [
        SayStep,
        DistractorStep,
        WaitStep,
        ForgetStep,
        ForgetStep,
        MaintenanceStep,
        MaintenanceStep,
        WaitStep,
        AskStep,
        AskStep,
    ]


def test_a_scenario_survives_the_way_through_json(tmp_path: Path) -> None:
    made = only_scenario(tmp_path, EVERYTHING).scenario
    dumped = made.model_dump(mode="json", exclude_defaults=True)
    assert Scenario.model_validate(json.loads(json.dumps(dumped))) == made


def test_what_was_not_said_has_its_default() -> None:
    made = scenario()
    assert (made.about, made.tags, made.backends, made.user) == ("", (), (), "ana")
    assert made.start == datetime(2026, 1, 5, 9, tzinfo=UTC)
    (ask,) = made.steps
    assert isinstance(ask, AskStep)
    assert (ask.user, ask.session, ask.limit) == (None, None, 5)


def test_one_thing_stands_for_a_list_of_one() -> None:
    made = scenario({"session": "s", "say": "I moved."}, tags="update", backends="rag")
    assert (made.tags, made.backends) == (("update",), ("rag",))
    say = made.steps[0]
    assert isinstance(say, SayStep)
    assert say.say == (TurnSpec(text="I moved."),)
    assert expectation(recalled="x").recalled == (Matcher(contains=("x",)),)
    assert expectation(recalled={"contains": ["x", "y"]}).recalled == (Matcher(contains=("x", "y")),)
    assert expectation(reply=["x", "y"]).reply == ReplyExpectation(contains=("x", "y"))
    assert expectation(reply="x").reply == ReplyExpectation(contains=("x",))


def test_a_turn_is_the_users_or_of_the_role_it_names() -> None:
    assert turn_spec("hi") == TurnSpec(role="user", text="hi")
    assert turn_spec({"assistant": "hi", "speaker": "Bot"}) == TurnSpec(
        role="assistant", text="hi", speaker="Bot"
    )
    assert turn_spec({"text": "hi", "role": "tool"}) == TurnSpec(role="tool", text="hi")


@pytest.mark.parametrize("wrong", [{}, {"user": "a", "assistant": "b"}, {"speaker": "Bot"}, ["a"], 3])
def test_a_turn_of_no_role_or_of_two_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError):
        turn_spec(wrong)


def test_a_time_without_zone_is_utc() -> None:
    assert turn_spec({"user": "hi", "at": "2025-01-01T10:00"}).at == datetime(2025, 1, 1, 10, tzinfo=UTC)
    with_zone = turn_spec({"user": "hi", "at": "2025-01-01T10:00+02:00"}).at
    assert with_zone == datetime(2025, 1, 1, 8, tzinfo=UTC)
    assert scenario(start="2025-01-01T10:00").start == datetime(2025, 1, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize("wrong", ["2026", "20260105", "-5", "1.5", "1e9", "+100", "9" * 400, "now"])
def test_a_bare_number_is_no_time_and_no_day(wrong: str) -> None:
    with pytest.raises(ValidationError, match="expected a date, as in '2026-03-01'"):
        turn_spec({"user": "hi", "at": wrong})
    with pytest.raises(ValidationError, match="expected a date, as in '2026-03-01'"):
        Matcher.model_validate({"contains": "x", "on": wrong})


@pytest.mark.parametrize("wrong", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_that_utc_does_not_have_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="outside the years 1 to 9999 in UTC"):
        turn_spec({"user": "hi", "at": wrong})
    with pytest.raises(ValidationError, match="outside the years 1 to 9999 in UTC"):
        scenario(start=wrong)


@pytest.mark.parametrize(
    "wrong", ["-1", str(2**63), "1" + "0" * 400, "9" * 5000, "1e3", "0x10", "0o17", "1:30", "nan"]
)
def test_a_seed_is_a_number_of_63_bits(wrong: str) -> None:
    assert DistractorSpec.model_validate({"count": "1", "seed": str(2**63 - 1)}).seed == 2**63 - 1
    with pytest.raises(ValidationError):
        DistractorSpec.model_validate({"count": "1", "seed": wrong})


@pytest.mark.parametrize("wrong", [["x"], {"x": "y"}, [], {}])
def test_a_list_or_a_mapping_is_no_name_and_no_text(wrong: object) -> None:
    ask = {"ask": "q", "expect": {"nothing": True}}
    for scenario_ in (
        {"name": wrong, "steps": [ask]},
        {"name": "x", "user": wrong, "steps": [ask]},
        {"name": "x", "steps": [ask | {"ask": wrong}]},
        {"name": "x", "steps": [ask | {"session": wrong}]},
        {"name": "x", "steps": [ask, {"session": "s", "say": {"assistant": wrong}}]},
        {"name": "x", "steps": [ask, {"session": "s", "say": {"user": "a", "speaker": wrong}}]},
    ):
        with pytest.raises(ValidationError, match="valid string"):
            Scenario.model_validate(scenario_)


@pytest.mark.parametrize("blank", ["\x1c", " \x1f ", "\x85", "\u2003"])
def test_a_word_is_more_than_white_space(blank: str) -> None:
    with pytest.raises(ValidationError):
        Matcher.model_validate({"contains": blank})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1 minute", timedelta(minutes=1)),
        ("36 hours", timedelta(hours=36)),
        ("1 day", timedelta(days=1)),
        ("3 weeks", timedelta(days=21)),
        ("2  months", timedelta(days=60)),
        (" 1 year ", timedelta(days=365)),
        ("P3DT4H", timedelta(days=3, hours=4)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, meant: timedelta) -> None:
    assert WaitStep.model_validate({"wait": text}).wait == meant


@pytest.mark.parametrize(
    "wrong",
    ["3", "weeks", "three weeks", "3 fortnights", "-3 weeks", "3weeks", "1.5 days", "123456 days", ""],
)
def test_any_other_duration_is_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(ValidationError, match="as in '3 weeks'"):
        WaitStep.model_validate({"wait": wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"nothing": False},
        {"nothing": True, "recalled": "x"},
        {"nothing": True, "order": ["x", "y"]},
        {"reply_seconds": 3, "nothing": True},
        {"reply": {}},
        {"reply": {"matches": "("}},
        {"reply": ""},
        {"recalled": []},
        {"recalled": {"contains": " "}},
        {"recalled": {"contains": "x", "within": 0}},
        {"recalled": {"within": 1}},
        {"order": ["x"]},
        {"at_most": -1},
        {"recall_seconds": 0},
        {"recall_seconds": "inf"},
        {"recalled": {"contains": "x", "on": "yesterday"}},
        {"recalled": {"contains": "x", "role": "owner"}},
    ],
)
def test_an_expectation_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        expectation(**wrong)


def test_nothing_may_stand_beside_what_must_not_be_recalled_and_a_reply() -> None:
    assert expectation(nothing=True, not_recalled="x", reply={"lacks": "x"}).nothing


def test_at_most_none_is_an_expectation() -> None:
    assert expectation(at_most="0").at_most == 0


@pytest.mark.parametrize(
    ("fields", "needs_memory", "judges_recall"),
    [
        ({"recalled": "x"}, True, True),
        ({"order": ["x", "y"]}, True, True),
        ({"not_recalled": "x"}, False, True),
        ({"nothing": True}, False, True),
        ({"at_most": 2}, False, True),
        ({"recall_seconds": 1}, False, True),
        ({"reply": "x"}, False, False),
        ({"reply": "x", "recalled": "x"}, True, True),
    ],
)
def test_an_expectation_knows_what_it_takes(
    fields: dict[str, Any], needs_memory: bool, judges_recall: bool
) -> None:
    made = expectation(**fields)
    assert (made.needs_memory, made.judges_recall) == (needs_memory, judges_recall)


def test_a_day_is_read_as_a_date() -> None:
    assert Matcher.model_validate({"contains": "x", "on": "2026-01-05"}).on == date(2026, 1, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"session": "s", "say": "x", "ask": "y"},
        {"session": "s"},
        {},
        {"session": "s", "say": []},
        {"session": "s", "say": " "},
        {"session": "s", "say": "with NUL \0"},
        {"session": " ", "say": "x"},
        {"session": "x" * 256, "say": "x"},
        {"say": "x"},
        {"distractors": {"count": 0}},
        {"distractors": {"count": 100_001}},
        {"distractors": {"count": 1, "kind": "weekly"}},
        {"distractors": {"seed": 1}},
        {"forget": {}},
        {"forget": {"matching": "x", "session": "s"}},
        {"do": "sleep"},
        {"wait": "1 day", "user": "ben"},
        ASK | {"limit": 0},
        ASK | {"limit": 1001},
    ],
)
def test_a_step_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        scenario(wrong)


def test_a_scenario_without_a_question_is_refused() -> None:
    with pytest.raises(ValidationError, match="without an `ask` shows nothing"):
        Scenario.model_validate({"name": "a", "steps": [{"wait": "1 day"}]})


def test_values_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        scenario().name = "b"


def test_the_documented_example_is_a_scenario(tmp_path: Path) -> None:
    example = (schema.__doc__ or "").partition("\n\n")[2].partition("\n\nEvery")[0]
    made = only_scenario(tmp_path, example).scenario
    assert [type(step) for step in made.steps] == [SayStep, DistractorStep, WaitStep, SayStep, AskStep]
