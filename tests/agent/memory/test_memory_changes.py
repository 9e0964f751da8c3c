"""A memory that forgets, is rebuilt, closed, locked, or fails halfway."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from memagent.agent.home import Home
from memagent.agent.journal import Journal, NewTurn
from memagent.agent.memory import open_journal
from memagent.agent.memory.checkpoint import Position
from memagent.agent.memory.lock import backend_lock
from memagent.backends.errors import BusyError, NotFoundError, SettingError, StorageError
from memagent.backends.in_memory import InMemory
from memagent.backends.records import Turn, WriteResult
from tests.agent.memories import (
    FACT,
    QUESTION,
    Breaking,
    Stubborn,
    bytes_of,
    offer,
    scratch_of,
    store_of,
    tell,
    texts,
)
from tests.conftest import OpenMemory

# forgetting and rebuilding


def test_a_backend_that_cannot_forget_is_rebuilt_without_the_turn(
    home: Home, open_memory: OpenMemory, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Stubborn)
    memory = open_memory(backend="stubborn", notify=notices.append)
    memory.remember("monday", "user", FACT)
    memory.remember("monday", "user", "The dog is old.")
    memory.checkpoint()
    assert memory.forget([1]).turns == (1,)
    assert texts(memory) == ["The dog is old."]
    assert notices == ["stubborn cannot forget single turns; it is being rebuilt without them."]
    assert b"Biscuit" not in bytes_of(home.root)
    memory.close()
    assert texts(open_memory(backend="stubborn", notify=notices.append)) == ["The dog is old."]
    assert len(notices) == 1


def test_a_backend_that_never_read_the_turn_need_not_forget_it(
    home: Home, open_memory: OpenMemory, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Stubborn)
    memory = open_memory(backend="stubborn", notify=notices.append)
    with open_journal(home, "ana") as other:
        other.append("elsewhere", "user", FACT)
        other.forget([1])
    assert (texts(memory), notices, memory.position) == ([], [], Position(1, 1))


def test_rebuilding_reads_everything_again_and_stores_it(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    memory.remember("monday", "user", "The dog is old.")
    before = memory.recall(QUESTION)
    memory.rebuild()
    assert memory.recall(QUESTION) == before
    checkpoint = store_of(home).inspect()
    assert checkpoint is not None
    assert checkpoint.position == memory.position == Position(2, 0)


def test_consolidating_stores_the_state(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    report = memory.consolidate()
    assert (report.before, report.after) == (1, 1)
    assert store_of(home).inspect() is not None


# closing, and the lock


@pytest.mark.parametrize(("turns", "stored"), [(0, False), (63, False), (64, True)])
def test_closing_stores_the_state_only_past_the_threshold(
    turns: int, stored: bool, home: Home, open_memory: OpenMemory
) -> None:
    tell(home, turns)
    open_memory().close()
    assert (store_of(home).current() is not None) == stored


def test_the_threshold_counts_from_the_last_checkpoint(home: Home, open_memory: OpenMemory) -> None:
    tell(home, 64)
    open_memory().close()
    tell(home, 63)
    open_memory().close()
    checkpoint = store_of(home).inspect()
    assert checkpoint is not None
    assert checkpoint.position.seq == 64
    tell(home, 1)
    open_memory().close()
    checkpoint = store_of(home).inspect()
    assert checkpoint is not None
    assert checkpoint.position.seq == 128


def test_closing_twice_is_harmless_and_leaves_no_working_files(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory()
    assert scratch_of(home).exists()
    memory.close()
    memory.close()
    assert not scratch_of(home).exists()
    assert not list(home.root.rglob("holder.json"))


def test_a_full_disk_on_closing_is_told_and_the_lock_let_go(
    home: Home, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(home, 64)
    memory = open_memory()

    def full_disk(backend: InMemory, directory: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(InMemory, "save", full_disk)
        with pytest.raises(StorageError, match="still has every turn"):
            memory.close()
    again = open_memory(wait_seconds=0)
    assert again.stats().items == 64


def test_a_memory_in_use_is_busy_and_can_be_opened_once_closed(open_memory: OpenMemory) -> None:
    memory = open_memory()
    with pytest.raises(BusyError, match="in_memory memory of user 'ana' is in use by process"):
        open_memory(wait_seconds=0)
    memory.remember("monday", "user", FACT)
    open_memory(backend="none", wait_seconds=0)
    open_memory("bob", wait_seconds=0)
    memory.close()
    assert texts(open_memory(wait_seconds=0)) == [FACT]


def test_an_opening_that_fails_lets_go_of_the_lock(
    home: Home, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(home, 1)
    with monkeypatch.context() as patched:
        offer(patched, Breaking)
        with pytest.raises(RuntimeError, match="it broke"):
            open_memory()
    assert open_memory(wait_seconds=0).stats().items == 1


def test_a_lock_that_was_handed_over_is_free_after_closing(home: Home, open_memory: OpenMemory) -> None:
    lock = backend_lock(home, "ana", "in_memory")
    lock.acquire(wait_seconds=0)
    open_memory(lock=lock).close()
    open_memory(wait_seconds=0)


def test_an_unknown_backend_or_setting_is_named_before_anything_is_made(
    home: Home, open_memory: OpenMemory
) -> None:
    with pytest.raises(NotFoundError, match="Did you mean in_memory"):
        open_memory(backend="in_memry")
    with pytest.raises(NotFoundError, match="threshold"):
        open_memory(settings={"treshold": "0.5"})
    with pytest.raises(SettingError, match="threshold"):
        open_memory(settings={"threshold": "high"})
    assert not home.root.exists()


def test_settings_reach_the_backend(open_memory: OpenMemory) -> None:
    memory = open_memory(settings={"threshold": "1.0"})
    memory.remember("monday", "user", FACT)
    assert (texts(memory, "dog cat"), texts(memory, "dog")) == ([], [FACT])


def test_a_backend_without_a_model_channel_says_so(open_memory: OpenMemory) -> None:
    memory = open_memory()
    assert not memory.has_model_channel
    with pytest.raises(SettingError, match="--channel text"):
        memory.attached(None, "dog")  # type: ignore[arg-type]


def test_the_journal_knows_nothing_of_backends(open_memory: OpenMemory, home: Home) -> None:
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    other = open_memory(backend="none")
    assert other.recall(QUESTION) == []
    other.remember("monday", "user", "The dog is old.")
    assert texts(memory) == [FACT, "The dog is old."]
    with Journal(home.journal_file("ana"), "ana") as journal:
        assert journal.count() == 2


class FailsOnce(InMemory):
    """Breaks halfway through one change: after the first turn of a batch, or after forgetting."""

    fail: ClassVar[set[str]] = set()

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        if "remember" in self.fail:
            self.fail.clear()
            super().remember(turns[:1])
            raise MemoryError("no room")
        return super().remember(turns)

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        if "forget" in self.fail:
            self.fail.clear()
            super().forget(seqs)
            super().forget([2])
            raise MemoryError("no room")
        return super().forget(seqs)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "never stored"])
@pytest.mark.parametrize("where", ["remember", "forget"])
def test_a_backend_that_failed_halfway_is_read_again(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch, where: str, stored: bool
) -> None:
    offer(monkeypatch, FailsOnce)
    memory = open_memory()
    memory.remember("monday", "user", "The sea is warm.")
    memory.remember("monday", "user", "The sea is deep.")
    if stored:
        memory.checkpoint()
    monkeypatch.setattr(FailsOnce, "fail", {where})
    if where == "remember":
        memory.journal.extend([NewTurn("monday", "user", f"The sea is {word}.") for word in ("old", "wide")])
    else:
        memory.journal.forget([1])
    with pytest.raises(MemoryError):
        memory.catch_up()
    expected_seqs = {1, 2, 3, 4} if where == "remember" else {2}
    memory.checkpoint()  # of what was stored before, not of what is left of the change
    assert {seq for item in memory.recall("sea", limit=9) for seq in item.seqs} == expected_seqs
    memory.close()
    again = open_memory(wait_seconds=0)
    assert {seq for item in again.recall("sea", limit=9) for seq in item.seqs} == expected_seqs
