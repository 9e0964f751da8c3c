"""Backups and exports that are proved, losses that are accepted, pipes, and forgettings that were cut off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from memagent.agent.home import Home
from memagent.agent.memory import open_journal
from memagent.agent.memory.checkpoint import CheckpointStore
from memagent.backends import registry
from memagent.backends.errors import InputError, ModelError
from memagent.backends.in_memory import InMemory, InMemoryConfig
from memagent.backends.protocol import Fingerprint, Resources
from tests.cli.commands.remembering import FACT, memagent

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(autouse=True)
def echo_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The echo model and the in-memory backend."""
    monkeypatch.setenv("MEMAGENT_MODEL", "echo")
    monkeypatch.setenv("MEMAGENT_BACKEND", "in_memory")


def test_an_export_and_a_backup_are_proved_by_one_command(home: Home, tmp_path: Path) -> None:
    memagent("remember", "-", stdin=b"one\ntwo\nthree\n")
    memagent("forget", "--seq", "2", "--yes")
    for command, name in (("export", "e.jsonl"), ("backup", "b.sqlite3")):
        file = tmp_path / name
        assert memagent(command, str(file)).exit_code == 0
        shown = memagent("export", "--verify", str(file)).stdout
        assert "is complete: 2 turns and 1 forgetting" in shown
        content = file.read_bytes()
        file.write_bytes(content.replace(b"three", b"eerht"))
        done = memagent("export", "--verify", str(file))
        assert isinstance(done.exception, InputError)
        assert "changed" in str(done.exception)


def test_a_backup_says_of_which_file_it_is_and_replaces_nothing(home: Home, tmp_path: Path) -> None:
    memagent("remember", FACT)
    done = memagent("backup", str(tmp_path / "b"))
    assert done.stderr == f"Wrote 1 turn of {home.journal_file('default')} to {tmp_path / 'b'}.\n"
    again = memagent("backup", str(tmp_path / "b"))
    assert "exists already" in str(again.exception)


def test_a_loss_is_shown_and_asked_about_before_it_is_accepted(home: Home) -> None:
    memagent("remember", "-", stdin=b"one\ntwo\n")
    memagent("backends", "rebuild", "in_memory")
    assert "No loss was found" in memagent("accept-loss").stdout
    for path in home.user_folder("default").glob("journal.sqlite3*"):
        path.unlink()
    done = memagent("recall", "one")
    assert "memagent accept-loss --user default" in str(done.exception)
    refused = memagent("accept-loss", stdin=b"n\n")
    assert refused.exit_code == 1
    assert "journal.sqlite3 is missing" in refused.stdout
    assert "The stored memory of in_memory recorded turns up to 2" in refused.stdout
    assert memagent("accept-loss", "--yes").exit_code == 0
    assert memagent("recall", "one").stdout == "Nothing relevant was found.\n"
    assert json.loads(memagent("remember", "three", "-o", "json").stdout)["seqs"] == [3]


def test_a_pipe_is_imported_whole(home: Home, tmp_path: Path) -> None:
    memagent("remember", "-", stdin=b"one\ntwo\n")
    export = memagent("export", "-").stdout
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(export,))
    writer.start()
    done = memagent("import", str(pipe), "--user", "bob")
    writer.join()
    assert done.stdout == "Imported 2 turns; 0 were present already.\n"
    assert not [path for path in home.root.iterdir() if path.name != "users"]


def test_standard_input_is_imported_whole(home: Home) -> None:
    memagent("remember", "-", stdin=b"one\ntwo\n")
    export = memagent("export", "-").stdout.encode()
    command = [sys.executable, "-m", "memagent.cli.main", "import", "-", "--user", "bob"]
    environment = {**os.environ, "MEMAGENT_BACKEND": "in_memory"}
    done = subprocess.run(
        command, input=export, capture_output=True, timeout=60, check=False, env=environment
    )
    assert done.stdout == b"Imported 2 turns; 0 were present already.\n", done.stderr
    cut = subprocess.run(
        command, input=export[:-100], capture_output=True, timeout=60, check=False, env=environment
    )
    assert (cut.returncode, b"Nothing was imported" in cut.stderr) == (1, True)


def test_what_an_interrupted_forgetting_left_is_told_and_finished_by_forgetting_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    memagent("remember", "-", stdin=b"one\ntwo\n")
    memagent("backends", "rebuild", "in_memory")
    with monkeypatch.context() as patched, open_journal(home, "default") as journal:
        patched.setattr("memagent.agent.journal.journal.purge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.forget([1], [("in_memory", "")])
    stats = json.loads(memagent("backends", "stats", "in_memory", "-o", "json").stdout)
    assert stats["unfinished_forgetting"] == ["journal", "in_memory"]
    assert "a forgetting is unfinished" in memagent("doctor").stdout
    again = memagent("forget", "--seq", "1", "--yes")
    assert (again.exit_code, "forgetting is finished now" in again.stdout) == (0, True)
    assert "unfinished_forgetting" not in memagent("backends", "stats", "in_memory", "-o", "json").stdout
    assert isinstance(memagent("forget", "--seq", "1", "--yes").exception, InputError)


def interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_costly_memory_that_cannot_forget_here_ends_with_exit_code_1_and_the_command(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    memagent("remember", "-", stdin=b"one\ntwo\n")
    memagent("backends", "rebuild", "in_memory")

    class Costly(InMemory):
        costly: ClassVar[bool] = True

        @classmethod
        def fingerprint(cls, config: InMemoryConfig, resources: Resources) -> Fingerprint:
            raise ModelError("The model is not here.")

    with monkeypatch.context() as patched:
        patched.setattr(registry, "get", lambda name: Costly)
        store = CheckpointStore(home.backend_folder("default", "in_memory"))
        found = store.read()
        assert found is not None
        content = (found.directory / "turns.json").read_text()

        def save(folder: Path) -> None:
            (folder / "turns.json").write_text(content)

        store.write(
            save,
            user="default",
            fingerprint=found.fingerprint,
            extent=found.extent,
            costly=True,
        )
        done = memagent("forget", "--seq", "1", "--yes")
    assert done.exit_code == 1
    assert done.stdout == "Forgot 1 turn.\n"
    assert "The model is not here. Then finish it with: memagent backends rebuild in_memory" in done.stderr
