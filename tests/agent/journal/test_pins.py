"""Pinned turns: a few, in journal order, forgotten with their turn, and carried by exports."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from memagent.agent.journal import Journal, NewTurn
from memagent.agent.journal.export import export, load
from memagent.agent.journal.proof import Source, prove
from memagent.agent.journal.records import MAX_PINS
from memagent.backends.errors import InputError, StorageError


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "journal.sqlite3", "ana")
    journal.extend([NewTurn("monday", "user", f"fact {number}") for number in range(1, MAX_PINS + 3)])
    return journal


def pinned(journal: Journal) -> list[int]:
    return [turn.seq for turn in journal.pinned()]


def exported(journal: Journal) -> bytes:
    file = io.StringIO()
    export(journal, file)
    return file.getvalue().encode()


def test_pins_are_kept_in_journal_order_and_each_once(journal: Journal, tmp_path: Path) -> None:
    journal.pin([5])
    journal.pin([2, 5, 999, 2**70])
    journal.close()
    with Journal(tmp_path / "journal.sqlite3", "ana") as again:
        assert pinned(again) == [2, 5]
        again.unpin([5, 999, -1])
        assert [turn.text for turn in again.pinned()] == ["fact 2"]


def test_another_user_of_the_database_has_pins_of_their_own(journal: Journal, tmp_path: Path) -> None:
    journal.pin([1])
    with Journal(tmp_path / "journal.sqlite3", "bob") as bobs:
        bobs.append("monday", "user", "a fact of Bob's")
        assert pinned(bobs) == []
        bobs.unpin([1])
    assert pinned(journal) == [1]


def test_too_many_pins_are_refused_and_none_of_them_is_kept(journal: Journal) -> None:
    journal.pin(range(1, MAX_PINS + 1))
    with pytest.raises(InputError, match=f"At most {MAX_PINS} turns"):
        journal.pin([MAX_PINS + 1, MAX_PINS + 2])
    assert pinned(journal) == list(range(1, MAX_PINS + 1))
    journal.pin([1])  # pinned already


def test_forgetting_a_turn_unpins_it(journal: Journal) -> None:
    journal.pin([1, 2])
    journal.forget([1])
    assert pinned(journal) == [2]
    assert journal.audit() == []


def test_a_reader_cannot_pin(journal: Journal, tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite3", "ana", read_only=True) as reader:
        with pytest.raises(StorageError, match="for reading only"):
            reader.pin([1])
        assert reader.pinned() == []


def test_an_export_carries_pins_and_gives_the_same_lines_again(journal: Journal, tmp_path: Path) -> None:
    journal.pin([2, 4])
    content = exported(journal)
    source = Source("export", io.BytesIO(content))
    prove(source)
    with Journal(tmp_path / "other.sqlite3", "ana") as other:
        load(other, source)
        assert pinned(other) == [2, 4]
        assert exported(other) == content


def test_an_import_pins_new_turns_only(journal: Journal, tmp_path: Path) -> None:
    journal.pin([2])
    content = exported(journal)
    journal.unpin([2])
    load(journal, Source("export", io.BytesIO(content)))
    assert pinned(journal) == []
    with Journal(tmp_path / "other.sqlite3", "ana") as other:
        other.append("sunday", "user", "a turn with the number 1")
        load(other, Source("export", io.BytesIO(content)))
        assert [turn.text for turn in other.pinned()] == ["fact 2"]


def test_an_import_pins_no_more_than_the_most(journal: Journal, tmp_path: Path) -> None:
    journal.pin(range(1, MAX_PINS + 1))
    with Journal(tmp_path / "other.sqlite3", "ana") as other:
        other.extend([NewTurn("sunday", "user", f"own {number}") for number in range(3)])
        other.pin([1, 2, 3])
        load(other, Source("export", io.BytesIO(exported(journal))))
        assert len(pinned(other)) == MAX_PINS
        other.pin([1])  # pinned already
