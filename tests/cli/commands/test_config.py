"""memagent config, and what the settings file means for the other commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from memagent.agent.home import Home
from memagent.agent.settings_file import settings_path
from memagent.backends.errors import MemagentError, SettingError
from memagent.cli.main import app


@pytest.fixture
def file(home: Home) -> Path:
    """The path of this test's settings file, which is not there yet."""
    return settings_path()


def memagent(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def rows(*options: str) -> dict[str, tuple[str | None, str, str]]:
    shown = json.loads(memagent("config", "show", "--output", "json", *options).stdout)
    return {row["key"]: (row["value"], row["source"], row["place"]) for row in shown}


def test_the_path_is_printed_and_nothing_is_made(file: Path) -> None:
    done = memagent("config", "path")
    assert (done.exit_code, done.stdout) == (0, f"{file}\n")
    assert not file.exists()


def test_each_value_says_where_it_comes_from(file: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('user = "ana"\nbackend = "none"\nmodel = "echo"\n[backends.rag]\ncandidates = 7\n')
    monkeypatch.setenv("MEMAGENT_BACKEND", "titans")
    found = rows("--model", "smollm2-135m")
    assert found["user"] == ("ana", "file", str(file))
    assert found["backend"] == ("titans", "environment", "MEMAGENT_BACKEND")
    assert found["model"] == ("smollm2-135m", "option", "--model")
    assert found["channel"] == ("auto", "default", "")
    assert found["home"] == (str(home.root), "environment", "MEMAGENT_HOME")
    assert found["backends.rag.candidates"] == ("7", "file", str(file))
    shown = memagent("config").stdout
    assert all(key in shown for key in found)


def test_a_password_is_not_shown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("MEMAGENT_JOURNAL", "postgresql+psycopg://ana:secret@host/name")
    assert "secret" not in memagent("config").stdout
    assert rows()["journal"][0] == "postgresql+psycopg://ana@host/name"


def test_values_are_set_and_unset(file: Path) -> None:
    done = memagent("config", "set", "user", "ana")
    assert (done.exit_code, done.stdout) == (0, f"Set user in {file}.\n")
    assert memagent("config", "set", "backends.rag.abstain", "false").exit_code == 0
    assert rows()["backends.rag.abstain"] == ("false", "file", str(file))
    if os.name == "posix":
        assert file.stat().st_mode & 0o777 == 0o600
    assert memagent("config", "unset", "user").stdout == f"Removed user from {file}.\n"
    assert rows()["user"] == ("default", "default", "")
    assert memagent("config", "unset", "user").stdout == f"{file} does not set user; nothing was changed.\n"


def test_a_variable_that_hides_the_new_value_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAGENT_USER", "bo")
    done = memagent("config", "set", "user", "ana")
    assert "MEMAGENT_USER is set and comes before the file" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("usr", "ana"),
        ("channel", "loud"),
        ("backend", "ragg"),
        ("backends.rag.nosuch", "1"),
        ("backends.rag.candidates", "many"),
        ("user", "a\udcff"),
    ],
)
def test_what_does_not_fit_is_not_written(file: Path, arguments: tuple[str, str]) -> None:
    done = memagent("config", "set", *arguments)
    assert isinstance(done.exception, MemagentError)
    assert not file.exists()


def test_commands_take_what_they_are_not_given_from_the_file(
    file: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('user = "ana"\nbackend = "in_memory"\nmodel = "echo"\nchannel = "text"\n')
    said = json.loads(memagent("remember", "My dog is called Biscuit.", "-o", "json").stdout)
    assert said["user"] == "ana"
    answer = json.loads(memagent("chat", "-p", "What is my dog called?", "-o", "json").stdout)
    assert (answer["user"], answer["backend"], answer["channel"]) == ("ana", "in_memory", "text")
    assert "Biscuit" in memagent("sessions", "show", "notes").stdout
    assert "notes" in memagent("sessions").stdout
    assert home.backends_of("ana") == ["in_memory"]
    monkeypatch.setenv("MEMAGENT_USER", "bo")
    assert "There is no user 'bo'" in str(memagent("sessions").exception)
    assert "notes" in memagent("sessions", "list", "--user", "ana").stdout


def test_a_backends_settings_hold_unless_the_command_line_says_otherwise(file: Path) -> None:
    file.write_text('backend = "in_memory"\n[backends.in_memory]\nthreshold = 2.0\n')
    memagent("remember", "My dog is called Biscuit.")
    question = ("recall", "What is my dog called?", "--output", "json")
    assert json.loads(memagent(*question).stdout) == []
    assert json.loads(memagent(*question, "--set", "threshold=0").stdout) != []


def test_a_backends_wrong_setting_is_named(file: Path) -> None:
    file.write_text('[backends.in_memory]\nthreshold = "high"\n')
    done = memagent("remember", "My dog is called Biscuit.", "-b", "in_memory")
    assert isinstance(done.exception, SettingError)
    assert "[backends.in_memory]" in str(done.exception)
    assert "threshold='high'" in str(done.exception)


def test_a_damaged_file_stops_commands_but_not_help_and_path(file: Path) -> None:
    file.write_text("user = \n")
    for command in (["recall", "x"], ["sessions"], ["config", "show"], ["models", "list"]):
        done = memagent(*command)
        assert isinstance(done.exception, SettingError), command
        assert "line 1" in str(done.exception)
    for command in (["recall", "--help"], ["--help"], ["config", "path"]):
        assert memagent(*command).exit_code == 0
