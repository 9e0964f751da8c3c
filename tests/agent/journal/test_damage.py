"""A journal that was emptied, shortened, replaced or put back is refused, and what derives from it is kept."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from memagent.agent.doctor import examine
from memagent.agent.home import Home
from memagent.agent.journal import Journal, NewTurn
from memagent.agent.journal.rows import DamagedRowError
from memagent.agent.memory import open_journal
from memagent.agent.memory.loss import accept_loss, examine_loss
from memagent.backends.errors import JournalDamagedError, StorageError
from tests.conftest import OpenMemory

FACT = "My dog is called Biscuit."


def journal_files(home: Home) -> list[Path]:
    return sorted(home.user_folder("ana").glob("journal.sqlite3*"))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def older(home: Home, open_memory: OpenMemory, tmp_path: Path) -> Path:
    """A copy of Ana's journal of before her last turn; her memory has a stored state of after it."""
    with open_memory() as memory:
        for place in range(5):
            memory.remember("monday", "user", f"The dog likes ball number {place}.")
        memory.journal.backup(tmp_path / "older")
        memory.remember("monday", "user", FACT)
        memory.checkpoint()
    return tmp_path / "older"


def empty(home: Home, older: Path) -> None:
    for path in journal_files(home):
        path.unlink()
    home.journal_file("ana").touch()


def remove(home: Home, older: Path) -> None:
    for path in journal_files(home):
        path.unlink()


def put_back(home: Home, older: Path) -> None:
    remove(home, older)
    shutil.copy(older, home.journal_file("ana"))


def write_without_mark(home: Home, texts: Iterable[str]) -> None:
    """Append turns while the journal's mark is away, which then stands there as it was."""
    mark = home.mark_file("ana")
    kept = mark.read_bytes()
    mark.unlink()
    with open_journal(home, "ana") as journal:
        for text in texts:
            journal.append("monday", "user", text)
    mark.write_bytes(kept)


def put_back_and_write_on(home: Home, older: Path) -> None:
    put_back(home, older)
    write_without_mark(home, (f"Something else {place}." for place in range(7)))


def replace_by_another(home: Home, older: Path) -> None:
    remove(home, older)
    write_without_mark(home, (f"Another journal {place}." for place in range(9)))


def cut_the_end_off(home: Home, older: Path) -> None:
    with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
        connection.execute("DELETE FROM turns WHERE seq = 6")
        connection.execute("DELETE FROM chain WHERE seq = 6")
        connection.execute("UPDATE users SET last_seq = 5, head = (SELECT head FROM chain WHERE seq = 5)")
        connection.commit()


DAMAGES = [empty, remove, put_back, put_back_and_write_on, replace_by_another, cut_the_end_off]
Damage = Callable[[Home, Path], None]
each_damage = pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)


@each_damage
def test_nobody_takes_it_for_the_truth(
    home: Home, older: Path, open_memory: OpenMemory, damage: Damage
) -> None:
    damage(home, older)
    before = bytes_of(home.backend_folder("ana", "in_memory"))
    for read_only in (False, True):
        with pytest.raises(JournalDamagedError, match="memagent accept-loss --user ana"):
            open_journal(home, "ana", read_only=read_only)
        with pytest.raises(JournalDamagedError):
            open_memory(read_only=read_only)
    with pytest.raises(JournalDamagedError):
        open_memory(fresh=True)
    after = bytes_of(home.backend_folder("ana", "in_memory"))
    assert {name: content for name, content in after.items() if name in before} == before


@each_damage
def test_a_stored_state_alone_is_enough_to_notice(
    home: Home, older: Path, open_memory: OpenMemory, damage: Damage
) -> None:
    damage(home, older)
    home.mark_file("ana").unlink()
    if damage is not remove:
        with pytest.raises(JournalDamagedError, match="The stored memory of in_memory covers"):
            open_memory()
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", "a new beginning")
    for options in ({}, {"fresh": True}, {"read_only": True}):
        with pytest.raises(JournalDamagedError, match="The stored memory of in_memory covers"):
            open_memory(**options)
    assert any(home.backend_folder("ana", "in_memory").glob("0*/turns.json"))


@each_damage
def test_the_loss_can_be_accepted_and_what_was_known_is_set_aside(
    home: Home, older: Path, open_memory: OpenMemory, damage: Damage
) -> None:
    damage(home, older)
    loss_before = examine_loss(home, "ana")
    assert loss_before is not None
    assert "The stored memory of in_memory" in {claim.claimant for claim in loss_before.claims}
    loss, aside = accept_loss(home, "ana")
    assert loss == loss_before
    names = {path.name for path in aside.iterdir()}
    assert {"in_memory.manifest.json", "journal.mark"} <= names
    assert not any(b"Biscuit" in path.read_bytes() for path in aside.iterdir())
    assert examine_loss(home, "ana") is None
    with pytest.raises(StorageError, match="nothing to accept"):
        accept_loss(home, "ana")
    memory = open_memory()
    assert FACT not in [turn.text for turn in memory.journal.turns()]
    # No number of a turn that was lost is given to another.
    assert memory.remember("tuesday", "user", "The dog likes cats.").seq > 6
    assert memory.recall("dog cats")[0].text == "The dog likes cats."
    assert memory.journal.audit() == []


def test_a_journal_that_is_no_database_is_moved_aside_whole(home: Home, older: Path) -> None:
    garbage = b"garbage" * 1000
    home.journal_file("ana").write_bytes(garbage)
    with pytest.raises(StorageError, match="not a database"):
        open_journal(home, "ana")
    _, aside = accept_loss(home, "ana")
    assert (aside / "journal.sqlite3").read_bytes() == garbage
    with open_journal(home, "ana") as journal:
        assert journal.count() == 0


def test_a_journal_whose_log_was_left_behind_is_noticed(home: Home, tmp_path: Path) -> None:
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", FACT)
        with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        journal.append("monday", "user", "in the log only")
        other = Home(tmp_path / "moved", home.models)
        other.user_folder("ana").mkdir(parents=True)
        for name in ("journal.sqlite3", "journal.mark"):
            shutil.copy(home.user_folder("ana") / name, other.user_folder("ana") / name)
    with pytest.raises(JournalDamagedError, match="turns up to 1 and .* turns up to 2"):
        open_journal(other, "ana")


def test_a_mark_behind_the_journal_is_normal(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", "first")
        mark = home.mark_file("ana").read_bytes()
        journal.append("monday", "user", "second")
        journal.forget([1])
    home.mark_file("ana").write_bytes(mark)
    assert examine_loss(home, "ana") is None
    with open_journal(home, "ana") as journal:
        assert journal.append("monday", "user", "third").seq == 3


@pytest.mark.parametrize("content", [None, b"", b"torn"])
def test_a_mark_that_is_gone_or_damaged_proves_nothing(home: Home, content: bytes | None) -> None:
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", "first")
    home.mark_file("ana").unlink()
    if content is not None:
        home.mark_file("ana").write_bytes(content)
    with open_journal(home, "ana") as journal:
        assert journal.append("monday", "user", "second").seq == 2
    with open_journal(home, "ana") as journal:
        assert journal.extent().seq == 2


def test_an_empty_file_beside_a_damaged_mark_is_still_refused(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", "first")
    home.mark_file("ana").write_bytes(b"torn")
    home.journal_file("ana").write_bytes(b"")
    with pytest.raises(JournalDamagedError, match="is empty"):
        open_journal(home, "ana")


def test_a_first_opening_that_was_killed_is_no_loss(home: Home) -> None:
    home.user_folder("ana").mkdir(parents=True)
    home.journal_file("ana").touch()
    with open_journal(home, "ana") as journal:
        assert journal.append("monday", "user", "hello").seq == 1


def test_a_first_opening_that_was_killed_holds_no_journal_yet(home: Home) -> None:
    home.user_folder("ana").mkdir(parents=True)
    home.journal_file("ana").touch(mode=0o600)
    with pytest.raises(StorageError, match="holds no journal yet"):
        open_journal(home, "ana", read_only=True)
    assert examine_loss(home, "ana") is None
    assert [finding.level for finding in examine(home) if finding.area == "journal"] == ["note"]


def test_a_copy_of_the_same_journal_keeps_the_stored_state(
    home: Home, older: Path, open_memory: OpenMemory, tmp_path: Path, notices: list[str]
) -> None:
    with open_journal(home, "ana") as journal:
        journal.backup(tmp_path / "newer")
    remove(home, older)
    shutil.copy(tmp_path / "newer", home.journal_file("ana"))
    recollections = open_memory(notify=notices.append).recall("What is my dog called?")
    assert FACT in [item.text for item in recollections]
    assert notices == []


def test_journals_of_one_home_in_different_databases_have_marks_of_their_own(
    home: Home, tmp_path: Path
) -> None:
    shared = Home(home.root, home.models, f"sqlite:///{tmp_path / 'shared.sqlite3'}")
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", FACT)
    with open_journal(shared, "ana") as journal:
        assert journal.count() == 0
    assert isinstance(journal, Journal)
    with open_journal(home, "ana") as journal:
        assert journal.count() == 1


def test_a_pipe_in_the_journals_place_is_refused_at_once(home: Home) -> None:
    home.user_folder("ana").mkdir(parents=True)
    os.mkfifo(home.journal_file("ana"))
    for read_only in (False, True):
        with pytest.raises(StorageError, match="it is a pipe or a device"):
            open_journal(home, "ana", read_only=read_only)


def test_a_damaged_index_does_not_keep_a_reader_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite3"
    with Journal(file, "ana") as journal:
        journal.extend([NewTurn("monday", "user", f"turn {number}") for number in range(40)])
    content = file.read_bytes()
    # The last entries of the indexes by user and seq, in the tables of turns and of the chain: seq 40 is in row 40.
    entry = b"ana" + bytes([40, 40])
    assert content.count(entry) == 2
    file.write_bytes(content.replace(entry, b"ana" + bytes([7, 40])))
    with Journal(file, "ana") as journal:
        assert journal.audit() != []
        for read in (journal.turns, journal.entries):
            with pytest.raises(DamagedRowError, match="7 stands behind 39"):
                list(islice(read(), 1000))
