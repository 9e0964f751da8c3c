"""Reading scenario files: what stands there stays text, and every mistake has its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memagent.agent.evaluation.scenarios import LocatedScenario, read, read_all
from memagent.agent.evaluation.scenarios.schema import AskStep, SayStep
from memagent.backends.errors import InputError
from tests.agent.evaluation.scenarios import only_scenario, scenario_file

GOOD = """
    name: {name}
    steps:
      - ask: What is my dog called?
        expect: {{recalled: Biscuit}}
"""


def good(name: str = "a dog") -> str:
    return GOOD.format(name=name)


def mistakes(file: Path) -> list[str]:
    """What is wrong with a file: the lines of the error."""
    with pytest.raises(InputError) as caught:
        read(file)
    return str(caught.value).splitlines()


def named(found: list[LocatedScenario]) -> list[tuple[str, str, int]]:
    return [(item.scenario.name, item.file.name, item.line) for item in found]


def test_a_file_may_hold_several_scenarios(tmp_path: Path) -> None:
    text = "---\nname: a\nsteps: [{ask: q, expect: {nothing: true}}]\n"
    file = scenario_file(tmp_path, f"# comment\n{text}{text.replace(': a', ': b')}---\n---\n# the end\n")
    assert named(read(file)) == [("a", file.name, 3), ("b", file.name, 6)]


def test_what_stands_there_stays_text(tmp_path: Path) -> None:
    found = only_scenario(
        tmp_path,
        """
        name: 007
        about: ~
        tags: [yes, 1.50, null]
        steps:
          - session: 2026-01-05
            say:
              - 0042
              - no
              - assistant: 1e3
          - ask: off
            expect:
              recalled: {contains: no}
              order: [0042, 0x1F]
              reply: {contains: [0042, on]}
        """,
    ).scenario
    assert (found.name, found.about, found.tags) == ("007", "~", ("yes", "1.50", "null"))
    say, ask = found.steps
    assert isinstance(say, SayStep)
    assert isinstance(ask, AskStep)
    assert say.session == "2026-01-05"
    assert [turn.text for turn in say.say] == ["0042", "no", "1e3"]
    assert ask.ask == "off"
    assert ask.expect.recalled[0].contains == ("no",)
    assert ask.expect.order == ("0042", "0x1F")
    assert ask.expect.reply is not None
    assert ask.expect.reply.contains == ("0042", "on")


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistake(tmp_path: Path) -> None:
    file = scenario_file(tmp_path, good())
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert named(read(file)) == [("a dog", file.name, 1)]


def test_an_anchor_stands_for_what_it_names(tmp_path: Path) -> None:
    found = only_scenario(
        tmp_path,
        """
        name: a
        steps:
          - ask: first
            expect: &same {recalled: Biscuit}
          - ask: second
            expect: *same
        """,
    )
    first, second = found.scenario.steps
    assert isinstance(first, AskStep)
    assert isinstance(second, AskStep)
    assert first.expect == second.expect


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (
            "name: x\nstesp: []\nsteps: [{ask: q, expect: {nothing: true}}]\n",
            ["2: stesp: no such field here; did you mean steps?"],
        ),
        (
            (
                "name: x\nsteps:\n- ask: q\n  expect:\n    recalled:\n      - a\n      - contains: b\n"
                "        wihtin: 2\n"
            ),
            ["8: steps[0].expect.recalled[1].wihtin: no such field here; did you mean within?"],
        ),
        (
            "name: x\nsteps:\n- ask: q\n  expect: {nothing: true}\n  qqqq: 1\n  within: 1\n",
            ["5: steps[0].qqqq: no such field here", "6: steps[0].within: no such field here"],
        ),
        ("about: x\nsteps: [{ask: q, expect: {nothing: true}}]\n", ["1: the field name is missing"]),
        (
            "name: x\nsteps:\n- wait: 1 day\n- ask: q\n",
            ["4: steps[1]: the field expect is missing"],
        ),
        ("# a\nname: x\nabout: y\nname: z\n", ["4: name stands here a second time."]),
        (
            "name: x\nsteps:\n- ask: q\n  expect: {nothing: true,\n    nothing: true}\n",
            ["5: nothing stands here a second time."],
        ),
        (
            "name: x\nsteps:\n- ask: q\n  expect: {nothing: true}\n- ask: q\n  wait: 1 day\n",
            ["5: steps[1]: expected a step with exactly one of say, ask, distractors, wait, forget, do"],
        ),
        (
            "name: x\nsteps:\n- ask: q\n  expect: {nothing: true}\n- listen\n",
            [
                (
                    "5: steps[1]: expected a step with exactly one of say, ask, distractors, wait, forget, do, "
                    "not 'listen'"
                )
            ],
        ),
        (
            "name: x\nsteps:\n- wait: 3 fortnights\n- ask: q\n  expect: {nothing: true}\n",
            [
                (
                    "3: steps[0].wait: expected a number and a unit (minute, hour, day, week, month, year), "
                    "as in '3 weeks', not '3 fortnights'"
                )
            ],
        ),
        (
            "name: x\nsteps:\n- ask: q\n  expect:\n    nothing: true\n    recalled: a\n",
            ["4: steps[0].expect: `nothing: true` and something to be recalled cannot both hold"],
        ),
        ("name: x\nsteps:\n- wait: 1 day\n", ["1: a scenario without an `ask` shows nothing"]),
        (
            "name: x\nsteps:\n- ask: q\n  expect: {}\n",
            [
                (
                    "4: steps[0].expect: expected at least one of reply, recalled, not_recalled, order, nothing, "
                    "at_most, recall_seconds, reply_seconds"
                )
            ],
        ),
        (
            "name: x\nsteps:\n- ask: q\n  expect:\n    reply_seconds: 2\n    nothing: true\n",
            ["4: steps[0].expect: `reply_seconds` needs a `reply`: without it no model answers"],
        ),
        (
            "name: x\nsteps:\n- forget: {matching: a, session: b}\n- ask: q\n  expect: {nothing: true}\n",
            ["3: steps[0].forget: expected exactly one of matching and session"],
        ),
        ("name: x\nsteps: []\nother:\n  ? [a]\n  : b\n", ["4: a field's name must be a word."]),
        ("name: x\nabout: *z\n", ["2: not YAML: found undefined alias 'z'."]),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, text: str, wrong: list[str]) -> None:
    file = scenario_file(tmp_path, text)
    assert mistakes(file) == [f"{file}:{line}" for line in wrong]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            "name: x\nsteps:\n- ask: q\n  expect:\n    reply:\n      matches: (\n",
            6,
            "reply.matches: not a regular",
        ),
        (
            "name: x\nsteps:\n- session: s\n  say:\n  - a\n  - cook: b\n",
            6,
            "say[1]: expected a text, or one of",
        ),
        ("name: x\nsteps:\n- session: s\n  say:\n  - a\n  - user: ''\n", 6, "say[1]: The message is empty"),
        (
            "name: x\nsteps:\n- ask: q\n  limit: zero\n  expect: {nothing: true}\n",
            4,
            "limit: Input should be",
        ),
        ("name: x\nsteps:\n- ask: q\n  expect:\n    nothing: maybe\n", 5, "nothing: Input should be"),
        ("name: x\nsteps: [\n", 3, "not YAML: expected the node content"),
        ("name: x\n\tsteps: 1\n", 2, "not YAML: found character '\\t'"),
        ("name: x\nsteps:\n", 2, "steps: Input should be a valid"),
        ("\n- a\n- b\n", 2, "Input should be a valid dictionary"),
        ("just words\n", 1, "Input should be a valid dictionary"),
    ],
)
def test_a_mistake_in_a_value_is_named_with_file_and_line(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_text(text, encoding="utf-8")
    first = mistakes(file)[0]
    assert first.startswith(f"{file}:{line}: ")
    assert said in first


def test_the_line_is_that_of_the_file_also_in_a_later_document(tmp_path: Path) -> None:
    file = scenario_file(
        tmp_path, "name: a\nsteps: [{ask: q, expect: {nothing: true}}]\n---\nname: b\nstps: 1\n"
    )
    assert mistakes(file) == [
        f"{file}:4: the field steps is missing",
        f"{file}:5: stps: no such field here; did you mean steps?",
    ]


def test_all_mistakes_are_named_at_once_up_to_ten(tmp_path: Path) -> None:
    fields = "".join(f"qqq{number}: 1\n" for number in range(30))
    file = scenario_file(tmp_path, f"{fields}name: x\nsteps: [{{ask: q, expect: {{nothing: true}}}}]\n")
    assert mistakes(file) == [f"{file}:{n + 1}: qqq{n}: no such field here" for n in range(10)]


def test_a_list_with_a_mistake_in_it_is_not_called_too_short_as_well(tmp_path: Path) -> None:
    file = scenario_file(tmp_path, "name: x\nsteps:\n- wait: long\n")
    (only,) = mistakes(file)
    assert only.startswith(f"{file}:3: steps[0].wait: expected a number")


def test_an_order_of_one_is_said_to_be_too_short(tmp_path: Path) -> None:
    file = scenario_file(tmp_path, "name: x\nsteps:\n- ask: q\n  expect: {order: [a]}\n")
    assert mistakes(file)[0].startswith(f"{file}:4: steps[0].expect.order: ")


def test_an_empty_name_is_a_sentence(tmp_path: Path) -> None:
    file = scenario_file(tmp_path, "name: ''\nsteps: [{ask: q, expect: {nothing: true}}]\n")
    assert not any(re.search(r"\.,", line) for line in mistakes(file))


@pytest.mark.parametrize("wrong", ["\0", "\x1b"])
def test_a_character_that_yaml_does_not_allow_is_named_with_its_line(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_text(f"name: x\nabout: {wrong}y\n", encoding="utf-8")
    (only,) = mistakes(file)
    assert only.startswith(f"{file}:2: not YAML")


def test_an_alias_that_holds_itself_is_refused(tmp_path: Path) -> None:
    file = scenario_file(tmp_path, "name: x\ntags: &t [*t]\nsteps: [{ask: q, expect: {nothing: true}}]\n")
    assert mistakes(file)[0].startswith(f"{file}:2: ")


def test_a_file_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    file = scenario_file(tmp_path, "[" * 3000 + "]" * 3000)
    assert mistakes(file)[0].startswith(f"{file}")


def test_two_scenarios_of_one_name_are_refused(tmp_path: Path) -> None:
    text = "name: x\nsteps: [{ask: q, expect: {nothing: true}}]\n"
    file = scenario_file(tmp_path, f"{text}---\n{text}")
    assert mistakes(file) == [f"{file}:4: the name 'x' is taken by the scenario at line 1."]


def test_the_same_name_in_two_files_is_fine(tmp_path: Path) -> None:
    files = [scenario_file(tmp_path, good(), name) for name in ("a.recall.yaml", "b.recall.yaml")]
    assert [item.file for item in read_all(files)] == files


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n---\n", "\ufeff"])
def test_an_empty_file_holds_no_scenario(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_text(text, encoding="utf-8")
    expected = f"{file} holds no scenario: expected a YAML mapping with name and steps."
    assert mistakes(file) == [expected]


def test_a_missing_file_is_told_with_one_of_a_similar_name(tmp_path: Path) -> None:
    scenario_file(tmp_path, good(), "moves.recall.yaml")
    file = tmp_path / "move.recall.yaml"
    assert mistakes(file) == [f"There is no file {file}. Did you mean moves.recall.yaml?"]
    far = tmp_path / "nosuch" / "q"
    assert mistakes(far) == [f"There is no file {far}."]


def test_a_folder_stands_for_the_scenario_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    scenario_file(tmp_path, good("second"), "b.recall.yml")
    scenario_file(tmp_path, good("first"), "a.recall.yaml")
    scenario_file(tmp_path / "sub", good("third"), "a.recall.yaml")
    scenario_file(tmp_path, "not: a scenario", "other.yaml")
    single = scenario_file(tmp_path, good("any name will do"), "single.yaml")
    found = read_all([single, tmp_path])
    assert [item.scenario.name for item in found] == ["any name will do", "first", "second", "third"]


def test_a_folder_without_scenarios_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \*\.recall\.yaml file\."):
        read_all([tmp_path])
