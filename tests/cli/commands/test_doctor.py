"""memagent doctor: what it finds, what it mends, and its exit code."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from memagent.agent.home import Home
from memagent.agent.memory.lock import backend_lock
from memagent.cli.main import app


@pytest.fixture(autouse=True)
def private_and_empty(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files are made as ``main`` makes them, and the models folder is empty."""
    monkeypatch.setenv("MEMAGENT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("MEMAGENT_MODEL", "echo")
    monkeypatch.setenv("MEMAGENT_BACKEND", "in_memory")
    mask = os.umask(0o077)
    yield
    os.umask(mask)


def memagent(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def findings(*options: str) -> tuple[int, list[dict[str, str]]]:
    done = memagent("doctor", "--output", "json", *options)
    return done.exit_code, json.loads(done.stdout)


def wrong(found: list[dict[str, str]]) -> list[dict[str, str]]:
    return [one for one in found if one["level"] == "wrong"]


def generation(home: Home, backend: str) -> Path:
    (folder,) = home.backend_folder("default", backend).glob("0*")
    return folder


def test_before_the_first_chat_nothing_is_wrong_and_nothing_is_made(home: Home, tmp_path: Path) -> None:
    code, found = findings()
    assert code == 0
    assert {one["area"] for one in found} == {"version", "home", "model"}
    assert [one["said"] for one in found if one["area"] == "home"] == [
        f"{home.root} does not exist yet; the first chat makes it."
    ]
    assert not list(tmp_path.iterdir())


def test_findings_have_exactly_the_documented_keys() -> None:
    assert all(list(one) == ["area", "level", "said", "mend"] for one in findings()[1])


def test_what_is_used_as_it_should_be_is_good(home: Home) -> None:
    memagent("chat", "-p", "My dog is called Biscuit.", "-s", "monday")
    memagent("backends", "rebuild", "rag")
    code, found = findings()
    assert code == 0
    said = {one["area"]: one["said"] for one in found if one["level"] == "good"}
    assert said["journal"] == "default: 2 turns in 1 sessions"
    assert said["backend"] == "rag of default: stored up to turn 2, 0 to read at next use"
    assert wrong(found) == []


def test_the_report_for_people_marks_each_line(home: Home) -> None:
    memagent("remember", "My dog is called Biscuit.")
    home.journal_file("default").chmod(0o644)
    done = memagent("doctor")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok    journal  default: 1 turns") for line in lines)
    assert any(line.startswith("note  model ") for line in lines)
    at = next(place for place, line in enumerate(lines) if line.startswith("WRONG home "))
    assert lines[at + 1].strip() == "-> memagent doctor --mend"


def test_files_that_others_can_read_are_wrong_until_mended(home: Home) -> None:
    memagent("remember", "My dog is called Biscuit.")
    home.journal_file("default").chmod(0o644)
    home.root.chmod(0o755)
    code, found = findings()
    assert code == 1
    assert "1 files or folders are readable for others" in wrong(found)[0]["said"]
    assert findings("--mend")[0] == 0
    assert stat.S_IMODE(home.journal_file("default").stat().st_mode) == 0o600
    assert findings()[0] == 0


def test_mending_leaves_what_is_not_memagents_alone(home: Home) -> None:
    memagent("remember", "My dog is called Biscuit.")
    others = [
        home.root / "notes.txt",
        home.user_folder("default") / "notes.txt",
        home.root / "users" / "notes.txt",
    ]
    for path in others:
        path.write_text("not memagent's")
        path.chmod(0o644)
    home.root.chmod(0o755)
    assert findings()[0] == 0
    assert findings("--mend")[0] == 0
    assert {stat.S_IMODE(path.stat().st_mode) for path in others} == {0o644}
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["manifest.json", "full_text.sqlite3", "chroma/chroma.sqlite3"])
def test_a_damaged_memory_is_wrong_until_mended(home: Home, name: str) -> None:
    memagent("remember", "My dog is called Biscuit.", "-b", "rag")
    memagent("backends", "rebuild", "rag")
    path = generation(home, "rag") / name
    path.write_bytes(path.read_bytes()[:-1])
    code, found = findings()
    assert code == 1
    assert wrong(found)[0]["mend"] == "memagent backends rebuild rag --user default"
    assert path.exists()
    code, found = findings("--mend")
    assert code == 0
    assert "it was removed and is rebuilt at next use" in "".join(one["said"] for one in found)
    assert findings()[0] == 0
    recalled = json.loads(memagent("recall", "What is my dog called?", "-b", "rag", "-o", "json").stdout)
    assert [item["text"] for item in recalled] == ["My dog is called Biscuit."]


def test_a_damaged_journal_is_wrong_and_left_as_it_is(home: Home) -> None:
    memagent("remember", "My dog is called Biscuit.")
    journal = home.journal_file("default")
    journal.write_bytes(b"damaged" * 1000)
    for options in ([], ["--mend"]):
        code, found = findings(*options)
        assert code == 1
        assert [one["area"] for one in wrong(found)] == ["journal"]
        assert "backup" in wrong(found)[0]["mend"]
    assert journal.read_bytes() == b"damaged" * 1000


def test_a_damaged_model_is_wrong_and_names_the_command_that_mends_it(tmp_path: Path) -> None:
    (tmp_path / "models" / "smollm2-135m").mkdir(parents=True)
    (tmp_path / "models" / "smollm2-135m" / "model.gguf").write_bytes(b"half")
    code, found = findings()
    assert code == 1
    assert "model.gguf has 4 bytes, expected 98,362,432" in wrong(found)[0]["said"]
    assert wrong(found)[0]["mend"] == "memagent models pull smollm2-135m"


def test_a_memory_in_use_and_one_nobody_offers_are_only_noted(home: Home) -> None:
    memagent("remember", "My dog is called Biscuit.")
    home.backend_folder("default", "gone").mkdir()
    lock = backend_lock(home, "default", "in_memory")
    lock.acquire()
    code, found = findings()
    lock.release()
    assert code == 0
    said = [one["said"] for one in found if one["area"] == "backend"]
    assert "gone of default: no installed package offers gone." in said
    assert any(one.startswith("in_memory of default: in use by process") for one in said)


def test_what_a_killed_process_left_is_noted_and_removed(home: Home) -> None:
    memagent("remember", "My dog is called Biscuit.")
    scratch = home.backend_folder("default", "in_memory") / "scratch"
    scratch.mkdir()
    (scratch / "left").write_text("Biscuit")
    code, found = findings()
    assert code == 0
    assert "working files of a process that was killed" in "".join(one["said"] for one in found)
    assert scratch.exists()
    findings("--mend")
    assert not scratch.exists()


def test_looking_changes_nothing(home: Home) -> None:
    (home.root / "users" / "ghost").mkdir(parents=True)
    before = sorted(home.root.rglob("*"))
    findings()
    assert sorted(home.root.rglob("*")) == before


def test_what_a_program_made_is_private_too(home: Home) -> None:
    from memagent import Agent

    os.umask(0o022)
    with Agent.open(backend="in_memory", model="echo", home=home) as agent:
        agent.ask("My dog is called Biscuit.", session="monday")
        agent.memory.checkpoint()
    assert findings()[0] == 0
