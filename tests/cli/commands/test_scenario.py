"""memagent scenario: run, list, check, schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from memagent.agent.evaluation.scenarios import schema
from memagent.agent.home import Home
from memagent.backends import registry
from memagent.backends.errors import InputError, NotFoundError, SettingError
from memagent.cli.main import app
from memagent.cli.opening import choose_backends

pytestmark = pytest.mark.usefixtures("home")
FACT, QUESTION = "My dog is called Biscuit.", "What is my dog called?"
DOGS = """
name: a dog is remembered
about: A name is recalled.
tags: [facts, dogs]
steps:
  - {session: s, say: My dog is called Biscuit.}
  - ask: What is my dog called?
    expect: {recalled: {contains: Biscuit, within: 1}, reply: Biscuit}
---
name: nobody made up a cat
tags: [abstaining]
steps:
  - ask: What is my cat called?
    expect: {nothing: true}
"""
WRONG = """
name: a dog of another name
tags: [facts]
steps:
  - {session: s, say: My dog is called Biscuit.}
  - ask: What is my dog called?
    expect: {recalled: Rex}
  - ask: And my dog again?
    expect: {recalled: Biscuit}
"""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with the echo model."""
    monkeypatch.setenv("MEMAGENT_MODEL", "echo")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def memagent(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["scenario", *arguments])


def written(text: str, name: str = "dogs.recall.yaml") -> str:
    Path(name).write_text(dedent(text).lstrip(), encoding="utf-8")
    return name


def played(*arguments: str, exit_code: int = 0) -> list[dict[str, Any]]:
    """Run with JSON output: the results."""
    done = memagent("run", *arguments, "--output", "json")
    assert (done.exit_code, done.stderr) == (exit_code, ""), done.exception
    (key, found), *rest = json.loads(done.stdout).items()
    assert (key, rest) == ("scenarios", [])
    assert isinstance(found, list)
    return found


def rows(done: Result) -> list[list[str]]:
    """The lines of a table, cut into cells."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in done.stdout.splitlines()]


# run


def test_a_table_says_what_passed_and_the_exit_code_is_0(home: Home) -> None:
    done = memagent("run", written(DOGS), "-b", "in_memory")
    assert done.exit_code == 0, done.exception
    assert rows(done) == [
        ["scenario", "file", "in_memory"],
        ["a dog is remembered", "dogs.recall.yaml:1", "passed"],
        ["nobody made up a cat", "dogs.recall.yaml:9", "passed"],
        [],
        ["in_memory: 2 of 2 scenarios passed"],
    ]
    assert not home.root.exists()


def test_what_failed_is_explained_and_the_exit_code_is_1() -> None:
    done = memagent("run", written(WRONG), "-b", "in_memory")
    assert done.exit_code == 1
    lines = rows(done)
    assert lines[1] == ["a dog of another name", "dogs.recall.yaml:1", "failed 1/2"]
    assert ["a dog of another name [in_memory]", "dogs.recall.yaml:1"] in lines
    assert ["asked", QUESTION] in lines
    assert ["recalled", "1. 1.00", FACT] in lines
    assert ["2026-01-05, session s. It holds 100% of the question's words."] in lines
    assert ["wrong", "not recalled: 'Rex'"] in lines
    assert lines[-1] == ["in_memory: 0 of 1 scenarios passed"]


def test_a_scenario_that_stopped_failed_too() -> None:
    text = "name: a\nsteps:\n- forget: x\n- ask: q\n  expect: {nothing: true}\n"
    done = memagent("run", written(text), "-b", "in_memory")
    assert done.exit_code == 1
    assert rows(done)[1] == ["a", "dogs.recall.yaml:1", "stopped"]
    assert "there was nothing to forget" in done.stdout


def test_the_json_has_the_documented_fields() -> None:
    found = played(written(WRONG), "-b", "in_memory", exit_code=1)
    (result,) = found
    assert (result["name"], result["backend"], result["passed"]) == (
        "a dog of another name",
        "in_memory",
        False,
    )
    assert (result["file"], result["line"], result["error"]) == ("dogs.recall.yaml", 1, None)
    first, second = result["probes"]
    assert (first["question"], first["reply"], first["passed"]) == (QUESTION, None, False)
    assert first["failures"] == ["not recalled: 'Rex'"]
    assert [item["text"] for item in first["recollections"]] == [FACT]
    assert (second["passed"], second["failures"]) == (True, [])


def test_several_backends_stand_side_by_side_and_none_is_not_counted() -> None:
    done = memagent("run", written(DOGS), "-b", "in_memory", "-b", "none", "-b", "rag", "-b", "none")
    assert done.exit_code == 0, done.stdout
    lines = rows(done)
    assert lines[:3] == [
        ["scenario", "file", "in_memory", "none", "rag"],
        ["a dog is remembered", "dogs.recall.yaml:1", "passed", "failed 1/1", "passed"],
        ["nobody made up a cat", "dogs.recall.yaml:9", "passed", "passed", "passed"],
    ]
    assert lines[-4:] == [
        ["in_memory: 2 of 2 scenarios passed"],
        ["none: 1 of 2 scenarios passed"],
        ["rag: 2 of 2 scenarios passed"],
        ["none remembers nothing: the scenarios that it passes need no memory."],
    ]
    assert "asked" not in done.stdout


def test_none_alone_is_counted() -> None:
    done = memagent("run", written(DOGS), "-b", "none")
    assert done.exit_code == 1
    assert "not recalled: 'Biscuit'" in done.stdout


def test_a_scenario_is_played_only_on_the_backends_it_is_meant_for() -> None:
    file = written(DOGS.replace("about:", "backends: in_memory\nabout:"))
    done = memagent("run", file, "-b", "in_memory", "-b", "none")
    assert rows(done)[1:3] == [
        ["a dog is remembered", "dogs.recall.yaml:1", "passed", "-"],
        ["nobody made up a cat", "dogs.recall.yaml:10", "passed", "passed"],
    ]
    assert [(one["name"], one["backend"]) for one in played(file, "-b", "none")] == [
        ("nobody made up a cat", "none")
    ]


def test_only_scenarios_of_a_tag_are_played() -> None:
    file = written(DOGS)
    assert len(played(file, "-b", "in_memory", "--tag", "dogs")) == 1
    assert len(played(file, "-b", "in_memory", "--tag", "dogs", "--tag", "abstaining")) == 2
    done = memagent("run", file, "-b", "in_memory", "--tag", "cats")
    assert isinstance(done.exception, InputError)
    assert str(done.exception) == "No scenario has the tag cats. Tags: abstaining, dogs, facts."


def test_recall_only_asks_no_model_and_says_what_was_not_judged() -> None:
    file = written("name: a\nsteps:\n- ask: q\n  expect: {reply: Rome}\n")
    arguments = [file, "-b", "in_memory", "-m", "nosuch:model", "--recall-only"]
    (result,) = played(*arguments)
    assert [(one["reply"], one["judged"]) for one in result["probes"]] == [(None, False)]
    done = memagent("run", *arguments)
    assert done.exit_code == 0
    assert "1 of 1 scenarios passed; 1 probes expect only a reply and were not judged" in done.stdout


def test_isolated_comes_out_the_same() -> None:
    file = written(DOGS)
    here, there = played(file, "-b", "in_memory"), played(file, "-b", "in_memory", "--isolated")
    for result in (*here, *there):
        del result["seconds"]
        for probe in result["probes"]:
            del probe["seconds"]
    assert here == there


def test_a_folder_is_played_whole() -> None:
    Path("sub").mkdir()
    written(DOGS, "sub/a.recall.yaml")
    written(WRONG, "sub/b.recall.yaml")
    found = played("sub", "-b", "in_memory", exit_code=1)
    assert [(one["file"], one["line"]) for one in found] == [
        ("sub/a.recall.yaml", 1),
        ("sub/a.recall.yaml", 9),
        ("sub/b.recall.yaml", 1),
    ]


def test_settings_reach_the_backend() -> None:
    file = written(DOGS)
    both = ["-b", "in_memory", "-b", "rag"]
    assert played(file, "-b", "in_memory", "--set", "threshold=0.9")[0]["passed"]
    assert not played(file, "-b", "in_memory", "--set", "threshold=2", exit_code=1)[0]["passed"]
    found = played(file, *both, "--set", "in_memory.threshold=2", exit_code=1)
    assert [one["passed"] for one in found] == [False, True, True, True]


@pytest.mark.parametrize("wrong", [["--nosuch"], ["--channel", "smell"], ["--seed", "x"], ["-o", "xml"]])
def test_a_wrong_option_is_a_usage_error(wrong: list[str]) -> None:
    assert memagent("run", written(DOGS), *wrong).exit_code == 2


@pytest.mark.parametrize("name", ["a move [to Porto]", "closing [/b]"])
@pytest.mark.parametrize("command", ["run", "list"])
def test_brackets_in_a_name_are_shown(command: str, name: str) -> None:
    file = written(f"name: {name}\ntags: '[red]'\nsteps:\n- ask: q\n  expect: {{nothing: true}}\n")
    done = memagent(command, file)
    assert done.exit_code == 0
    assert name in done.stdout


def test_control_characters_do_not_reach_the_terminal() -> None:
    file = written('name: a\nsteps:\n- ask: "\\e[2Jq"\n  expect: {recalled: "\\e[2Jx"}\n')
    done = memagent("run", file, "-b", "in_memory")
    assert "\x1b" not in done.stdout


def test_control_characters_of_a_list_do_not_reach_the_terminal() -> None:
    file = written('name: a\nabout: "\\e[2Jq"\nsteps:\n- ask: q\n  expect: {nothing: true}\n')
    assert "\x1b" not in memagent("list", file).stdout


def test_the_program_ends_with_a_line_and_exit_code_1_where_a_file_is_wrong() -> None:
    file = written("name: a\nsteps:\n- ask: q\n  expct: {}\n")
    program = Path(sys.executable).with_name("memagent")
    done = subprocess.run([program, "scenario", "check", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "Error: dogs.recall.yaml:3: steps[0]: the field expect is missing",
        "  dogs.recall.yaml:4: steps[0].expct: no such field here; did you mean expect?",
    ]


# list, check, schema


def test_a_list_names_scenarios_tags_places_and_what_they_show() -> None:
    file = written(DOGS)
    assert rows(memagent("list", file)) == [
        ["scenario", "tags", "file", "about"],
        ["a dog is remembered", "facts, dogs", "dogs.recall.yaml:1", "A name is recalled."],
        ["nobody made up a cat", "abstaining", "dogs.recall.yaml:9"],
    ]
    assert json.loads(memagent("list", file, "--tag", "facts", "-o", "json").stdout) == [
        {
            "name": "a dog is remembered",
            "about": "A name is recalled.",
            "tags": ["facts", "dogs"],
            "file": file,
            "line": 1,
        }
    ]


def test_check_counts_scenarios_and_plays_none(home: Home) -> None:
    assert memagent("check", written(DOGS)).stdout == "2 scenarios, no mistakes.\n"
    assert memagent("check", written(WRONG)).stdout == "1 scenario, no mistakes.\n"
    assert not home.root.exists()


def test_check_tells_a_mistake_with_its_line() -> None:
    done = memagent("check", written(DOGS.replace("within: 1", "within: first")))
    assert isinstance(done.exception, InputError)
    assert str(done.exception).startswith("dogs.recall.yaml:7: steps[1].expect.recalled.within: ")


def test_the_schema_is_json_and_names_every_field() -> None:
    done = memagent("schema")
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert found["required"] == ["name", "steps"]
    assert set(found["properties"]) == set(schema.Scenario.model_fields)
    assert {
        "SayStep",
        "AskStep",
        "DistractorStep",
        "WaitStep",
        "ForgetStep",
        "MaintenanceStep",
        "Matcher",
    } <= set(found["$defs"])


def test_the_schema_takes_the_documented_example() -> None:
    jsonschema: Any = pytest.importorskip("jsonschema")
    yaml: Any = pytest.importorskip("yaml")
    example = (schema.__doc__ or "").partition("\n\n")[2].partition("\n\nEvery")[0]
    found = json.loads(memagent("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(found)
    jsonschema.validate(yaml.safe_load(dedent(example)), found)


# choose_backends


def test_backends_are_chosen_in_order_and_once() -> None:
    assert choose_backends(None, None) == {"rag": {}}
    assert list(choose_backends(["none", "in_memory", "none"], None)) == ["none", "in_memory"]
    assert list(choose_backends(["all"], None)) == registry.names()


def test_a_setting_belongs_to_the_only_backend_or_to_the_one_it_names() -> None:
    assert choose_backends(["rag"], ["abstain=false", "rag.candidates=3"]) == {
        "rag": {"abstain": "false", "candidates": "3"}
    }
    chosen = choose_backends(["rag", "in_memory"], ["rag.abstain=false", "in_memory.threshold=0.5"])
    assert chosen == {"rag": {"abstain": "false"}, "in_memory": {"threshold": "0.5"}}


@pytest.mark.parametrize(
    ("names", "pair", "error", "message"),
    [
        (["rag", "none"], "abstain=false", InputError, "as in --set rag.abstain=false"),
        (["rag", "none"], "in_memory.first=1", InputError, "none of rag, none has a setting 'first'"),
        (["in_memory", "rag"], "margin=1", InputError, "as in --set rag.margin=1"),
        (["rag"], "abstain", InputError, "expected KEY=VALUE"),
        (["rag"], "nosuch=1", NotFoundError, "nosuch"),
        (["rag", "in_memory"], "in_memory.nosuch=1", NotFoundError, "nosuch"),
        (["rag"], "candidates=deep", SettingError, "candidates"),
        (["nosuch"], "abstain=false", NotFoundError, "nosuch"),
    ],
)
def test_a_setting_that_fits_no_backend_is_refused(
    names: list[str], pair: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        choose_backends(names, [pair])
    assert message in str(caught.value)


def test_a_mistyped_backend_beside_all_is_refused() -> None:
    with pytest.raises(NotFoundError):
        choose_backends(["all", "nosuch"], None)


def test_several_memories_are_played_as_one(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "one.recall.yaml"
    file.write_text(
        "name: a dog\nsteps:\n  - session: monday\n    say: My dog is called Biscuit.\n"
        "  - ask: What is my dog called?\n    expect: {recalled: Biscuit}\n"
    )
    done = CliRunner().invoke(
        app,
        [
            "scenario",
            "run",
            str(file),
            "--backend",
            "in_memory+bm25",
            "--set",
            "bm25.abstain=false",
            "-o",
            "json",
        ],
    )
    assert done.exit_code == 0, done.output
    (played,) = json.loads(done.stdout)["scenarios"]
    assert (played["backend"], played["passed"]) == ("in_memory+bm25", True)


def test_measurements_do_not_depend_on_personal_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAGENT_BACKENDS__RAG__RRF_K", "3")
    assert choose_backends(["rag"], ["abstain=false"]) == {"rag": {"abstain": "false"}}
