"""A state that became current is recorded in the journal, whatever fails afterwards: other homes must know of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from memagent.agent.home import Home
from memagent.agent.memory import Memory, checkpoint
from memagent.agent.memory.state_files import replace_file
from memagent.backends.errors import StorageError
from tests.agent.memories import FACT, bytes_of, store_of


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Home, Home]:
    """Two homes that share a journal."""
    url = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    first, second = (Home(tmp_path / name, tmp_path / "models", url) for name in ("first", "second"))
    return first, second


def no_removal(path: Path) -> None:
    raise StorageError(f"{path} cannot be removed: Permission denied. It may hold forgotten turns.")


def killed_after_replacing(target: Path, content: str) -> None:
    replace_file(target, content)
    raise KeyboardInterrupt


@pytest.mark.parametrize("fault", ["removal fails", "killed after the rename"])
def test_a_state_is_recorded_before_it_is_current_so_that_another_home_reports_that_it_has_yet_to_forget(
    homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    first, second = homes
    with Memory.open(first, "ana", "in_memory") as memory:
        memory.remember("monday", "user", FACT)
        (store_of(first).folder / "000001").mkdir()  # what a killed save left
        with monkeypatch.context() as patched:
            if fault == "removal fails":
                patched.setattr(checkpoint, "remove_tree", no_removal)
            else:
                patched.setattr(checkpoint, "replace_file", killed_after_replacing)
            with pytest.raises((StorageError, KeyboardInterrupt)):
                memory.checkpoint()
        assert store_of(first).current() is not None
        assert memory.journal.checkpoints() == [("in_memory", first.place(), 1)]
    assert b"Biscuit" in bytes_of(first.root)
    with Memory.open(second, "ana", "none") as other:
        (remaining,) = other.forget([1]).remaining
        assert (remaining.backend, first.place() in remaining.reason) == ("in_memory", True)
    with Memory.open(first, "ana", "in_memory") as memory:
        assert memory.journal.unfinished() == []
    assert b"Biscuit" not in bytes_of(first.root)


def test_a_first_state_that_misses_a_forgetting_of_another_home_is_recorded_as_unfinished(
    homes: tuple[Home, Home],
) -> None:
    first, second = homes
    with Memory.open(first, "ana", "in_memory") as memory:
        memory.remember("monday", "user", FACT)
        with Memory.open(second, "ana", "none") as other:
            assert other.forget([1]).remaining == ()
        memory.checkpoint()
        assert b"Biscuit" in bytes_of(store_of(first).folder)
        unfinished = [(part.backend, part.place) for part in memory.journal.unfinished()]
        assert unfinished == [("in_memory", first.place())]
        memory.catch_up()
        assert memory.journal.unfinished() == []
    assert b"Biscuit" not in bytes_of(first.root)


def test_a_forgetting_is_unfinished_until_the_older_generation_is_removed(
    homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = homes
    with Memory.open(first, "ana", "in_memory") as memory:
        memory.remember("monday", "user", FACT)
        memory.checkpoint()
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "remove_tree", no_removal)
            (remaining,) = memory.forget([1]).remaining
            assert (remaining.backend, "000001 cannot be removed" in remaining.reason) == ("in_memory", True)
            with pytest.raises(StorageError, match="It may hold forgotten turns"):
                memory.catch_up()
        assert b"Biscuit" in bytes_of(first.root)
        assert memory.finish_forgetting() == []
        assert memory.journal.unfinished() == []
    assert b"Biscuit" not in bytes_of(first.root)


def test_a_state_that_the_journal_cannot_record_does_not_become_current(
    homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwritable(*_: object) -> None:
        raise StorageError("The journal cannot be written.")

    first, _ = homes
    with Memory.open(first, "ana", "in_memory") as memory:
        memory.remember("monday", "user", FACT)
        with monkeypatch.context() as patched:
            patched.setattr(memory.journal, "note_checkpoint", unwritable)
            with pytest.raises(StorageError, match="The journal cannot be written"):
                memory.checkpoint()
        assert store_of(first).current() is None
        assert not (store_of(first).folder / "000001").exists()
