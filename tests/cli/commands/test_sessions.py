"""memagent sessions: list, show, delete, export."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from memagent.agent.home import Home
from memagent.agent.memory import open_journal
from memagent.backends.errors import NotFoundError
from memagent.cli.main import app

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(autouse=True)
def two_sessions(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Monday and tuesday, with two turns each; tuesday was begun later, monday is not spoken in again."""
    monkeypatch.setenv("MEMAGENT_MODEL", "echo")
    monkeypatch.setenv("MEMAGENT_BACKEND", "in_memory")
    memagent("chat", "-p", "My dog is called Biscuit.", "-s", "monday")
    memagent("chat", "-p", "I live in Porto.", "-s", "tuesday")


def memagent(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, arguments, input=stdin)


def names() -> list[str]:
    return [one["session"] for one in json.loads(memagent("sessions", "list", "-o", "json").stdout)]


def texts(home: Home) -> list[str]:
    with open_journal(home, "default") as journal:
        return [turn.text for turn in journal.turns()]


def test_sessions_are_listed_as_json_with_the_latest_last() -> None:
    found = json.loads(memagent("sessions", "list", "--output", "json").stdout)
    assert [list(one) for one in found] == [["session", "title", "created_at", "last_at", "turns"]] * 2
    assert [(one["session"], one["turns"]) for one in found] == [("monday", 2), ("tuesday", 2)]
    for one in found:
        assert datetime.fromisoformat(one["created_at"]) <= datetime.fromisoformat(one["last_at"])
    memagent("chat", "-p", "again", "-s", "monday")
    assert names() == ["tuesday", "monday"]


def test_sessions_are_listed_for_people() -> None:
    heading, *rows = memagent("sessions", "list").stdout.splitlines()
    assert heading.split() == ["session", "last", "turn", "turns", "title"]
    assert [row.split()[0] for row in rows] == ["monday", "tuesday"]
    assert [row.split(maxsplit=3)[3].rstrip() for row in rows] == [
        "2  My dog is called Biscuit.",
        "2  I live in Porto.",
    ]


def test_a_title_goes_when_its_message_is_forgotten() -> None:
    memagent("chat", "-p", "He is a poodle.", "-s", "monday")
    memagent("forget", "--seq", "1", "--yes")
    titles = [one["title"] for one in json.loads(memagent("sessions", "list", "-o", "json").stdout)]
    assert titles == ["I live in Porto.", "He is a poodle."]


def test_the_list_is_that_of_the_user_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    memagent("remember", "I am Ben.", "-u", "ben", "-s", "bens")
    monkeypatch.setenv("MEMAGENT_USER", "ben")
    assert "bens" in memagent("sessions", "list").stdout
    assert "bens" in memagent("sessions").stdout


def test_a_user_without_a_journal_is_not_found() -> None:
    assert isinstance(memagent("sessions", "list", "-u", "ben").exception, NotFoundError)


def test_a_session_is_shown_with_the_numbers_of_its_turns() -> None:
    done = memagent("sessions", "show", "tuesday")
    first, second = done.stdout.splitlines()
    assert first.split()[0] == "3"
    assert first.endswith("user: I live in Porto.")
    assert second.split()[0] == "4"
    assert "assistant: " in second


def test_a_session_is_shown_as_json() -> None:
    found = json.loads(memagent("sessions", "show", "monday", "-o", "json").stdout)
    assert [list(turn) for turn in found] == [
        ["seq", "role", "speaker", "text", "created_at", "attachments"]
    ] * 2
    assert [(turn["seq"], turn["role"], turn["text"]) for turn in found] == [
        (1, "user", "My dog is called Biscuit."),
        (2, "assistant", "My dog is called Biscuit."),
    ]


@pytest.mark.parametrize("command", ["show", "delete", "export"])
def test_an_unknown_session_suggests_the_near_one(home: Home, command: str) -> None:
    done = memagent("sessions", command, "mondya")
    assert isinstance(done.exception, NotFoundError)
    assert "Did you mean monday" in str(done.exception)
    assert len(texts(home)) == 4


def test_a_deleted_session_is_gone_with_its_turns_and_its_name(home: Home) -> None:
    done = memagent("sessions", "delete", "monday", "--yes")
    assert (done.exit_code, done.stdout) == (0, "Deleted session 'monday': 2 turns forgotten.\n")
    assert names() == ["tuesday"]
    assert json.loads(memagent("recall", "Biscuit", "-o", "json").stdout) == []
    assert not [
        path
        for path in home.root.rglob("*")
        if path.is_file() and (b"Biscuit" in path.read_bytes() or b"monday" in path.read_bytes())
    ]


def test_replies_elsewhere_that_saw_a_deleted_session_are_announced_and_go_too(home: Home) -> None:
    memagent("chat", "-p", "What is my dog called, Biscuit?", "-s", "friday")
    done = memagent("sessions", "delete", "monday", stdin=b"y\n")
    assert "with 2 turns and 1 reply written with it in view for good?" in done.stderr
    assert done.stdout == (
        "Deleted session 'monday': 2 turns and 1 reply written with it in view forgotten.\n"
    )
    assert texts(home) == ["I live in Porto.", "I live in Porto.", "What is my dog called, Biscuit?"]


def test_a_refused_confirmation_deletes_nothing() -> None:
    done = memagent("sessions", "delete", "monday", stdin=b"n\n")
    assert done.exit_code == 1
    assert "Forget session 'monday' with 2 turns for good?" in done.stderr
    assert names() == ["monday", "tuesday"]


def test_a_session_without_turns_can_be_deleted_too() -> None:
    memagent("forget", "--session", "monday", "--yes")
    assert names() == ["monday", "tuesday"]
    shown = memagent("sessions", "show", "monday")
    assert (shown.exit_code, shown.stdout) == (0, "")
    done = memagent("sessions", "delete", "monday", "-y")
    assert done.stdout == "Deleted session 'monday': 0 turns forgotten.\n"
    assert names() == ["tuesday"]


def test_one_session_is_exported_alone(home: Home, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in memagent("sessions", "export", "tuesday").stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["memagent", "session", "turn", "turn", "end"]
    assert {line.get("name", "tuesday") for line in lines} == {"tuesday"}
    file = tmp_path / "tuesday.jsonl"
    file.write_text(memagent("sessions", "export", "tuesday").stdout)
    assert memagent("import", str(file), "-u", "ben").stdout == "Imported 2 turns; 0 were present already.\n"
    with open_journal(home, "ben") as journal:
        assert next(journal.turns()).text == "I live in Porto."
