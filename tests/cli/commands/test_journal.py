"""export and import."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from memagent.agent.home import Home
from memagent.backends.errors import InputError
from tests.cli.commands.remembering import FACT, QUESTION, files_holding, memagent, recalled, stored_turns

pytestmark = pytest.mark.usefixtures("home", "echo_and_words")


def test_what_was_exported_is_imported_elsewhere(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memagent("chat", "-p", FACT, "-s", "monday")
    memagent("chat", "-p", "grüße 東京 😀\nsecond line", "-s", "tuesday")
    memagent("remember", "forgotten", "-s", "tuesday")
    memagent("forget", "--seq", "5", "--yes")
    before = stored_turns(home)
    done = memagent("export", str(tmp_path / "backup.jsonl"))
    assert (done.exit_code, done.stdout, done.stderr) == (
        0,
        "",
        f"Wrote 4 turns to {tmp_path}/backup.jsonl.\n",
    )
    monkeypatch.setenv("MEMAGENT_HOME", str(tmp_path / "elsewhere"))
    done = memagent("import", str(tmp_path / "backup.jsonl"))
    assert (done.exit_code, done.stdout) == (0, "Imported 4 turns; 0 were present already.\n")
    assert stored_turns(Home(tmp_path / "elsewhere", home.models)) == before
    assert FACT in recalled(QUESTION)
    assert memagent("export", "-").stdout == (tmp_path / "backup.jsonl").read_text()


def test_an_export_goes_to_standard_output_too(tmp_path: Path) -> None:
    memagent("remember", FACT)
    lines = [json.loads(line) for line in memagent("export", "-").stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["memagent", "session", "turn", "end"]
    assert lines[2]["text"] == FACT
    (tmp_path / "piped.jsonl").write_text(memagent("export", "-").stdout)
    done = memagent("import", str(tmp_path / "piped.jsonl"), "-u", "ben", "-o", "json")
    assert json.loads(done.stdout) == {"user": "ben", "added": 1, "present": 0, "forgotten": 0}


def test_importing_twice_adds_nothing_twice(home: Home, tmp_path: Path) -> None:
    memagent("remember", FACT)
    memagent("export", str(tmp_path / "backup.jsonl"))
    assert (
        memagent("import", str(tmp_path / "backup.jsonl")).stdout
        == "Imported 0 turns; 1 were present already.\n"
    )
    assert len(stored_turns(home)) == 1


def test_what_was_forgotten_here_does_not_come_back_by_an_import(home: Home, tmp_path: Path) -> None:
    memagent("remember", "-", stdin=b"keep\nforget\n")
    memagent("export", str(tmp_path / "backup.jsonl"))
    memagent("forget", "--seq", "2", "--yes")
    done = memagent("import", str(tmp_path / "backup.jsonl"))
    assert "1 turn in the file had been forgotten here and stayed so." in done.stderr
    assert stored_turns(home) == ["1 notes/user: keep"]


def test_an_import_says_what_to_forget(home: Home, tmp_path: Path) -> None:
    memagent("remember", FACT)
    memagent("export", str(tmp_path / "old.jsonl"))
    memagent("forget", "--seq", "1", "--yes")
    memagent("export", str(tmp_path / "new.jsonl"))
    memagent("import", str(tmp_path / "old.jsonl"), "-u", "ben")
    assert recalled(QUESTION, "-u", "ben") == [FACT]
    done = memagent("import", str(tmp_path / "new.jsonl"), "-u", "ben")
    assert "is now forgotten here too" in done.stderr
    assert recalled(QUESTION, "-u", "ben") == []
    assert files_holding(home, "Biscuit") == []


@pytest.mark.parametrize(
    ("content", "said_"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is empty; an export begins with a header line"),
        (b"hello\n", "line 1: "),
        (b'{"kind": "memagent", "format": 99, "user": "x"}\n', "format 99"),
        (b'{"kind": "memagent", "format": 1, "user": "x"}\n{"kind": "turn"}\n', "line 2: "),
        (
            b'{"kind": "session", "name": "x", "created_at": "2026-03-01T00:00:00Z"}\n',
            "line 1: expected the header",
        ),
        (b'{"kind": "memagent", "format": 1, "user": "caf\xe9"}\n', "line 1: "),
    ],
)
def test_a_file_that_is_no_export_is_refused_whole(
    home: Home, tmp_path: Path, content: bytes | None, said_: str
) -> None:
    file = tmp_path / "bad.jsonl"
    if content is not None:
        file.write_bytes(content)
    done = memagent("import", str(file))
    assert isinstance(done.exception, InputError)
    assert said_ in str(done.exception)
    assert not home.root.exists() or stored_turns(home) == []


def test_an_export_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    memagent("remember", FACT)
    done = memagent("export", str(tmp_path / "no" / "such" / "folder.jsonl"))
    assert isinstance(done.exception, InputError)
    assert "cannot be written: No such file or directory." in str(done.exception)
    (tmp_path / "folder").mkdir()
    done = memagent("export", str(tmp_path / "folder"))
    assert isinstance(done.exception, InputError)
    assert sorted(os.listdir(tmp_path)) == ["folder", "home"]
