"""One engine for a file and process: whatever else is opened and closed, no other process takes the log away."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from memagent.agent.home import Home
from memagent.agent.journal import Journal, NewTurn, database
from memagent.agent.memory import Memory, open_journal
from memagent.backends.errors import StorageError

BESIDE = """
import sys
from memagent.agent.home import Home
from memagent.agent.memory import open_journal

for place in range(3):
    with open_journal(Home.from_environment(), "ana") as journal:
        journal.append("beside", "user", f"beside {sys.argv[1]} {place}")
"""


def write_beside(name: str) -> None:
    """Let another process open the journal, write, and close it, three times."""
    subprocess.run([sys.executable, "-c", BESIDE, name], check=True, timeout=60)


def test_journals_opened_and_closed_here_cost_no_process_its_turns(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", "first")
        open_journal(home, "ana").close()
        write_beside("one")
        journal.append("monday", "user", "second")
        open_journal(home, "ana", read_only=True).close()
        write_beside("two")
        journal.append("monday", "user", "third")
        assert [turn.seq for turn in journal.turns()] == list(range(1, 10))
        assert journal.audit() == []
    with open_journal(home, "ana") as journal:
        assert journal.count() == 9


def test_forgetting_with_two_stored_memories_costs_no_process_its_turns(home: Home) -> None:
    for name in ("none", "in_memory"):
        with Memory.open(home, "ana", name) as memory:
            memory.remember("monday", "user", f"told to {name}")
            memory.checkpoint()
    with Memory.open(home, "ana", "in_memory") as memory:
        memory.forget([1])
        write_beside("one")
        memory.remember("monday", "user", "afterwards")
        write_beside("two")
        assert [turn.seq for turn in memory.journal.turns()] == list(range(2, 10))
        assert memory.journal.audit() == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_opening_a_journal_again_opens_its_file_by_sqlite_alone(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = os.open

    def watched(path: str | Path, *arguments: int, **options: int) -> int:
        opened.append(str(path))
        return real(path, *arguments, **options)

    with open_journal(home, "ana") as journal:
        monkeypatch.setattr(os, "open", watched)
        journal.append("monday", "user", "hello")
        open_journal(home, "ana").close()
        journal.forget([1])
    assert not [path for path in opened if path.endswith(".sqlite3")]


def test_all_who_have_a_file_open_share_an_engine_until_the_last_closes(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite3"
    first, second = Journal(file, "ana"), Journal(file, "ana")
    assert first._opened() is second._opened()
    first.close()
    first.close()
    assert second.append("monday", "user", "hello").seq == 1
    with pytest.raises(StorageError, match="is closed"):
        first.append("monday", "user", "hello")
    second.close()
    assert not [key for key in database._open_databases if key[0] == str(file)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_is_told_to_open_the_journal_itself(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from memagent.agent.journal import Journal\n"
        "from memagent.backends.errors import StorageError\n"
        "file = Path(sys.argv[1])\n"
        "journal = Journal(file, 'ana')\n"
        "journal.append('monday', 'user', 'parent')\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        journal.append('monday', 'user', 'child')\n"
        "    except StorageError as error:\n"
        "        assert 'Open it again here' in str(error)\n"
        "        with Journal(file, 'ana') as own:\n"
        "            own.append('monday', 'user', 'child')\n"
        "        os._exit(0)\n"
        "    os._exit(1)\n"
        "assert os.wait()[1] == 0\n"
        "journal.append('monday', 'user', 'parent again')\n"
        "assert [turn.text for turn in journal.turns()] == ['parent', 'child', 'parent again']\n"
        "assert journal.audit() == []\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "journal.sqlite3")], check=True, timeout=60)


def test_a_new_journal_is_private_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Journal(
            tmp_path / "user" / "journal.sqlite3", "ana", mark=tmp_path / "user" / "journal.mark"
        ) as journal:
            journal.append("monday", "user", "hello")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "user").iterdir()}
    finally:
        os.umask(before)
    assert {"journal.sqlite3", "journal.sqlite3-wal", "journal.mark"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "user").stat().st_mode) == 0o700


# reading only


def test_a_reader_changes_nothing_and_sees_what_is_written_meanwhile(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", "first")
        with open_journal(home, "ana", read_only=True) as reader:
            journal.append("monday", "user", "second")
            assert [turn.text for turn in reader.turns()] == ["first", "second"]
            with pytest.raises(StorageError, match="reading only"):
                reader.append("monday", "user", "third")
            with pytest.raises(StorageError, match="reading only"):
                reader.forget([1])


def test_reading_makes_no_journal(home: Home) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        open_journal(home, "ana", read_only=True)
    assert not home.root.exists()


def test_a_snapshot_stays_while_others_write_and_forget(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        journal.extend([NewTurn("monday", "user", f"turn {place}") for place in range(1500)])
        with journal.snapshot() as reader:
            turns = reader.turns()
            first = next(turns)
            with open_journal(home, "ana") as other:
                other.append("monday", "user", "later")
            texts = [first.text, *(turn.text for turn in turns)]
        assert texts == [f"turn {place}" for place in range(1500)]
        assert journal.count() == 1501


# backups


def test_a_backup_holds_every_turn_and_no_forgotten_one(home: Home, tmp_path: Path) -> None:
    with open_journal(home, "ana") as journal:
        journal.extend([NewTurn("monday", "user", f"plover {place}") for place in range(50)])
        journal.forget([7])
        journal.backup(tmp_path / "copy.sqlite3")
        journal.append("monday", "user", "later")
    assert stat.S_IMODE((tmp_path / "copy.sqlite3").stat().st_mode) == 0o600
    assert b"plover 6" not in (tmp_path / "copy.sqlite3").read_bytes()
    with Journal(tmp_path / "copy.sqlite3", "ana") as copy:
        assert copy.count() == 49
        assert copy.audit() == []


def test_a_backup_replaces_no_file(home: Home, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("something else")
    with open_journal(home, "ana") as journal, pytest.raises(FileExistsError):
        journal.backup(tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "something else"


# what is in the file


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE turns SET text = CAST(X'6869FF' AS TEXT)",
        "UPDATE turns SET text = X'6869'",
        "UPDATE turns SET created_at = 'yesterday'",
        "UPDATE turns SET created_at = 7",
        "UPDATE turns SET in_view = '[1'",
        "UPDATE turns SET in_view = '[\"one\"]'",
        "UPDATE turns SET in_view = '7'",
        "UPDATE turns SET in_view = NULL",
        "UPDATE turns SET recalled = '[1'",
        "UPDATE turns SET recalled = ''",
        "UPDATE turns SET recalled = '[\"one\"]'",
        "UPDATE turns SET attachment_count = NULL",
        "UPDATE turns SET session = NULL",
        "UPDATE turns SET role = 3",
    ],
)
def test_a_damaged_row_is_a_storage_error_and_found_by_the_audit(home: Home, statement: str) -> None:
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", "My secret is plover.")
    with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
        connection.execute("PRAGMA ignore_check_constraints=ON")
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE name = 'turns'"
        )
        connection.commit()
    with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
        connection.execute(statement)
        connection.commit()
    with open_journal(home, "ana") as journal:
        with pytest.raises(StorageError, match="damaged") as caught:
            list(journal.turns())
        assert "plover" not in str(caught.value)
        assert journal.audit() != []
