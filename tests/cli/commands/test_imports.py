"""memagent import --from: exports of other programs; and what a plain import says about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.home import Home
from memagent.agent.journal.chat_exports import FORMATS
from memagent.agent.memory import open_journal
from memagent.cli.commands.imports import FormatName
from tests.agent.journal.chat_exports import exports
from tests.cli.running import Done, Run, run  # noqa: F401 - a fixture


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """ChatGPT's export."""
    path = tmp_path / "conversations.json"
    path.write_bytes(exports.all_formats()["chatgpt"])
    return path


@pytest.fixture(autouse=True)
def small_memory(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAGENT_BACKEND", "bm25")


def fields(done: Done) -> Any:
    assert done.exit_code == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_the_options_are_the_formats() -> None:
    assert [str(name) for name in FormatName] == list(FORMATS)


def test_an_import_says_what_it_did_and_what_it_left_out(run: Run, file: Path) -> None:  # noqa: F811
    done = run("import", "--from", "chatgpt", str(file))
    assert done.exit_code == 0
    assert done.stdout == b"Imported 4 turns of 2 conversations; 0 were present already.\n"
    assert (
        done.stderr == b"Left out: messages 3 hidden by the program, 2 on other branches, 1 without text.\n"
    )
    done = run("import", "--from", "chatgpt", str(file))
    assert done.stdout == b"Imported 0 turns of 2 conversations; 4 were present already.\n"
    assert b"Biscuit" in run("recall", "What is my dog called?").stdout
    sessions = fields(run("sessions", "list", "--output", "json"))
    assert [(session["session"], session["turns"]) for session in sessions] == [("Pets", 1), ("Pets (2)", 3)]


def test_an_import_as_json(run: Run, file: Path) -> None:  # noqa: F811
    command = ("import", "--from", "chatgpt", str(file), "--output", "json", "--role", "user")
    summary = {
        "user": "default",
        "from": "chatgpt",
        "conversations": 2,
        "messages": 3,
        "left_out": {
            "hidden by the program": 3,
            "on other branches": 2,
            "of other roles": 1,
            "without text": 1,
        },
        "repaired": 0,
        "people": [],
    }
    assert fields(run(*command, "--dry-run")) == summary
    assert fields(run(*command)) == {**summary, "added": 3, "present": 0, "forgotten": 0}


def test_a_dry_run_stores_nothing(run: Run, file: Path, home: Home) -> None:  # noqa: F811
    done = run("import", "--from", "chatgpt", str(file), "--dry-run")
    assert done.stdout.endswith(
        b"conversations.json holds 4 messages of 2 conversations to import. Nothing was imported.\n"
    )
    assert b"Left out" in done.stderr
    assert not home.users()


def test_a_dry_run_of_our_own_export(run: Run, tmp_path: Path) -> None:  # noqa: F811
    run("remember", "My dog is called Biscuit.")
    backup = tmp_path / "backup.jsonl"
    run("export", str(backup))
    done = run("import", str(backup), "--user", "ben", "--dry-run")
    assert done.stdout.endswith(b"backup.jsonl holds 1 turn and 0 forgettings. Nothing was imported.\n")
    assert fields(run("import", str(backup), "--user", "ben", "--dry-run", "--output", "json"))["turns"] == 1
    assert run("recall", "dog", "--user", "ben").exit_code == 1


@pytest.mark.parametrize("name", exports.all_formats())
def test_a_plain_import_says_which_option_to_use(run: Run, tmp_path: Path, home: Home, name: str) -> None:  # noqa: F811
    path = tmp_path / "it's.json"
    path.write_bytes(b"\xef\xbb\xbf" + exports.all_formats()[name])
    done = run("import", str(path))
    assert done.exit_code == 1
    message = done.stderr.decode()
    assert "is not an export of memagent. It looks like" in message
    assert f"memagent import --from {name} " in message
    assert not home.users()
    assert run("import", "--from", name, str(path)).exit_code == 0


def test_the_session_of_messages_is_called_like_the_file_or_as_one_says(run: Run, tmp_path: Path) -> None:  # noqa: F811
    content = exports.all_formats()["openai-messages"]
    path = tmp_path / "holidays.json"
    path.write_bytes(content)
    run("import", "--from", "openai-messages", str(path))
    run("import", "--from", "openai-messages", str(path), "--session", "trip")
    sessions = fields(run("sessions", "list", "--output", "json"))
    assert [session["session"] for session in sessions] == ["holidays", "trip"]


def test_whose_part_is_imported(run: Run, tmp_path: Path, home: Home) -> None:  # noqa: F811
    content = exports.mem0()
    content["results"][0]["user_id"] = "ben"
    path = tmp_path / "memories.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    done = run("import", "--from", "mem0", str(path))
    assert done.exit_code == 1
    assert b"belongs to 2 people: ana, ben. Choose one with --owner" in done.stderr
    assert not home.users()
    assert fields(run("import", "--from", "mem0", str(path), "--owner", "ben", "-o", "json"))["added"] == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--role", "user"),
        ("--owner", "ana"),
        ("--session", "x"),
        ("--from", "chatgpt", "--session", "x"),
        ("--from", "x"),
    ],
)
def test_options_that_do_not_fit(run: Run, file: Path, home: Home, options: tuple[str, ...]) -> None:  # noqa: F811
    assert run("import", str(file), *options).exit_code == 2
    assert not home.users()


def test_a_byte_order_mark_before_our_own_export(run: Run, tmp_path: Path, home: Home) -> None:  # noqa: F811
    run("remember", "My dog is called Biscuit.")
    exported = run("export", "-").stdout
    path = tmp_path / "export.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + exported)
    assert run("import", str(path), "--user", "ben").exit_code == 0
    with open_journal(home, "ben") as journal:
        assert journal.count() == 1
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        path.write_bytes(exported.decode().encode(encoding))
        for command in (
            ("import", str(path)),
            ("export", "--verify", str(path)),
            ("import", "--from", "mem0", str(path)),
        ):
            done = run(*command)
            assert done.exit_code == 1
            assert b"is UTF-" in done.stderr
            assert b"iconv" in done.stderr


def test_what_is_wrong_is_said_and_nothing_is_imported(run: Run, tmp_path: Path, home: Home) -> None:  # noqa: F811
    path = tmp_path / "conversations.json"
    for content, message in (
        (b"", b"is empty. Nothing was imported."),
        (exports.all_formats()["chatgpt"][:-20], b"was cut off"),
        (
            exports.all_formats()["claude"],
            b"It looks like an export of Claude; use --from claude. Nothing was imported.",
        ),
    ):
        path.write_bytes(content)
        done = run("import", "--from", "chatgpt", str(path))
        assert done.exit_code == 1
        assert message in done.stderr, done.stderr
    assert run("import", "--from", "chatgpt", str(tmp_path / "none.json")).exit_code == 1
    assert not home.users()
