"""A journal with a backend that follows it: reopening, rebuilding, other writers, checkpoints, the lock."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest

from memagent.agent.checkpoint import CheckpointStore, Position
from memagent.agent.forgetting import forget
from memagent.agent.home import Home
from memagent.agent.journal import Journal, NewTurn
from memagent.agent.memory import Memory, backend_lock, open_journal
from memagent.backends import registry
from memagent.backends.errors import BusyError, CheckpointError, NotFoundError, SettingError, StorageError
from memagent.backends.in_memory import InMemory, InMemoryConfig
from memagent.backends.protocol import Fingerprint, MemoryBackend, Resources, Turn
from tests.conftest import OpenMemory

FACT = "My dog is called Biscuit."
QUESTION = "What is the dog called?"


class Stubborn(InMemory):
    """Cannot forget single turns."""

    name: ClassVar[str] = "stubborn"

    def forget(self, seqs: Collection[int]) -> bool:
        return False


class Retrained(InMemory):
    """The same backend after its model has changed."""

    @classmethod
    def fingerprint(cls, config: InMemoryConfig, resources: Resources) -> Fingerprint:
        return {"format": 2}


class Breaking(InMemory):
    """Fails on the first turn."""

    def remember(self, turns: Sequence[Turn]) -> None:
        raise RuntimeError("it broke")


def offer(monkeypatch: pytest.MonkeyPatch, backend: type[MemoryBackend]) -> None:
    """Let the registry give this class for every name."""
    monkeypatch.setattr(registry, "get", lambda name: backend)


def store_of(home: Home, backend: str = "in_memory", user: str = "ana") -> CheckpointStore:
    return CheckpointStore(home.backend_folder(user, backend))


def texts(memory: Memory, query: str = QUESTION) -> list[str]:
    return [item.text for item in memory.recall(query)]


def bytes_of(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def tell(home: Home, count: int) -> None:
    """Write turns into the journal behind the backend's back."""
    with open_journal(home, "ana") as journal:
        journal.extend([NewTurn("told", "user", f"turn {place}") for place in range(count)])


# remembering and recalling


def test_remembering_gives_the_turn_as_the_journal_has_it(open_memory: OpenMemory) -> None:
    memory = open_memory()
    when = datetime(2024, 5, 1, tzinfo=UTC)
    turn = memory.remember("monday", "user", FACT, speaker="Ana", created_at=when, in_view=())
    assert list(memory.journal.turns()) == [turn]
    assert (turn.seq, turn.speaker, turn.created_at) == (1, "Ana", when)
    assert (memory.user, memory.name, memory.position) == ("ana", "in_memory", Position(1, 0))
    assert [item.seqs for item in memory.recall(QUESTION)] == [(1,)]


@pytest.mark.parametrize("query", ["", "   ", "\n"])
def test_an_empty_query_recalls_nothing(query: str, open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    assert memory.recall(query) == []


@pytest.mark.parametrize("stored", [False, True])
def test_reopening_recalls_what_was_said_before(
    stored: bool, home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    if stored:
        memory.checkpoint()
    memory.close()
    assert (store_of(home).current() is not None) == stored
    assert texts(open_memory(notify=notices.append)) == [FACT]
    assert notices == []


def test_a_checkpoint_is_read_and_the_tail_after_it(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    memory.checkpoint()
    memory.remember("monday", "user", "The dog is old.")
    memory.close()
    read: list[list[int]] = []
    remember = InMemory.remember

    def watched(backend: InMemory, turns: Sequence[Turn]) -> None:
        read.append([turn.seq for turn in turns])
        remember(backend, turns)

    monkeypatch.setattr(InMemory, "remember", watched)
    again = open_memory()
    assert read == [[1], [2]]  # first what the checkpoint holds, then what the journal has beyond it
    assert texts(again) == [FACT, "The dog is old."]


def test_users_do_not_recall_each_others_turns(open_memory: OpenMemory) -> None:
    ana, bob = open_memory("ana"), open_memory("bob")
    ana.remember("monday", "user", FACT)
    assert texts(bob) == []
    bob.remember("monday", "user", "The dog of bob is called Rex.")
    assert texts(ana) == [FACT]


def test_users_of_a_shared_database_have_memories_of_their_own(home: Home, tmp_path: Path) -> None:
    shared = Home(home.root, home.models, f"sqlite:///{tmp_path / 'shared.sqlite3'}")
    with Memory.open(shared, "ana", "in_memory") as ana, Memory.open(shared, "bob", "in_memory") as bob:
        ana.remember("monday", "user", FACT)
        ana.checkpoint()
        assert texts(bob) == []
    with Memory.open(shared, "ana", "in_memory") as ana:
        assert texts(ana) == [FACT]
    assert not shared.journal_file("ana").exists()


def test_another_writers_turns_are_seen_before_the_next_recall(open_memory: OpenMemory, home: Home) -> None:
    memory = open_memory()
    with open_journal(home, "ana") as other:
        other.append("elsewhere", "user", FACT)
        assert texts(memory) == [FACT]
        other.append("elsewhere", "user", "The dog is called Crumb now.")
    memory.remember("monday", "user", "hello")
    assert texts(memory) == ["The dog is called Crumb now.", FACT]
    assert memory.position == Position(3, 0)


def test_another_writers_forgettings_are_followed_before_the_next_recall(
    open_memory: OpenMemory, home: Home
) -> None:
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    memory.checkpoint()
    with open_journal(home, "ana") as other:
        other.forget([1])
    assert texts(memory) == []
    assert memory.position == Position(1, 1)
    assert b"Biscuit" not in bytes_of(home.root)


def test_forgettings_while_closed_are_followed_on_opening(open_memory: OpenMemory, home: Home) -> None:
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    memory.remember("monday", "user", "The dog is old.")
    memory.checkpoint()
    memory.close()
    with open_journal(home, "ana") as other:
        other.forget([1])
    assert b"Biscuit" in bytes_of(home.root)
    assert texts(open_memory()) == ["The dog is old."]
    assert b"Biscuit" not in bytes_of(home.root)


def test_derived_turns_never_reach_the_backend(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    memory.remember("monday", "assistant", "Your dog is called Biscuit.", derived=True)
    assert (texts(memory), memory.stats().items, memory.position.seq) == ([FACT], 1, 2)
    memory.rebuild()
    assert (texts(memory), memory.stats().items) == ([FACT], 1)
    memory.close()
    again = open_memory()
    assert (texts(again), again.stats().items, again.journal.count()) == ([FACT], 1, 2)


def test_a_long_journal_is_read_in_batches_under_a_progress(home: Home, open_memory: OpenMemory) -> None:
    tell(home, 700)
    seen: list[tuple[int | None, str]] = []

    def progress(items: object, *, total: int | None, label: str) -> object:
        seen.append((total, label))
        return items

    memory = open_memory(progress=progress)
    assert memory.stats().items == 700
    assert seen == [(3, "Reading the journal into in_memory")]


# stored states that cannot be used


def damage(home: Home) -> None:
    path = next(home.backend_folder("ana", "in_memory").glob("*/turns.json"))
    path.write_text(path.read_text().replace("Biscuit", "Biscott"))


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def stored(open_memory: OpenMemory) -> None:
    """Ana's memory, closed, with a checkpoint."""
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    memory.checkpoint()
    memory.close()


@pytest.mark.usefixtures("stored")
def test_a_damaged_checkpoint_is_rebuilt_with_a_notice(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    damage(home)
    memory = open_memory(notify=notices.append)
    assert texts(memory) == [FACT]
    assert len(notices) == 1
    assert "in_memory" in notices[0]
    assert "turns.json" in notices[0]
    assert "rebuilt from the journal (1 turns)" in notices[0]
    assert store_of(home).current() is None


@pytest.mark.usefixtures("stored")
def test_a_strict_opening_refuses_what_it_would_have_to_rebuild(home: Home, open_memory: OpenMemory) -> None:
    damage(home)
    before = bytes_of(store_of(home).folder)
    with pytest.raises(CheckpointError, match=r"turns\.json"):
        open_memory(strict=True)
    assert bytes_of(store_of(home).folder) == before
    assert texts(open_memory(wait_seconds=0)) == [FACT]


@pytest.mark.usefixtures("stored")
def test_a_state_its_backend_cannot_load_is_rebuilt(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    store = store_of(home)
    found = store.inspect()
    assert found is not None

    def save_nonsense(folder: Path) -> None:
        (folder / "turns.json").write_text("{}[")

    store.write(
        save_nonsense,
        journal_id=found.journal,
        user=found.user,
        fingerprint=found.fingerprint,
        position=found.position,
        last_id=found.last_id,
    )
    assert texts(open_memory(notify=notices.append)) == [FACT]
    assert "turns.json cannot be read" in notices[0]


@pytest.mark.usefixtures("stored")
def test_a_state_of_another_fingerprint_is_rebuilt(
    open_memory: OpenMemory, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Retrained)
    assert texts(open_memory(notify=notices.append)) == [FACT]
    assert "its format is 1, now it is 2" in notices[0]


@pytest.mark.usefixtures("stored")
def test_a_state_of_another_journal_is_rebuilt(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    for path in home.user_folder("ana").glob("journal.sqlite3*"):
        path.unlink()
    memory = open_memory(notify=notices.append)
    assert (texts(memory), memory.position) == ([], Position(0, 0))
    assert "another journal" in notices[0]


@pytest.mark.usefixtures("stored")
def test_a_state_ahead_of_a_restored_journal_is_rebuilt(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    backup = home.root / "backup"
    shutil.copy(home.journal_file("ana"), backup)
    memory = open_memory()
    memory.remember("monday", "user", "The dog is called Crumb now.")
    memory.checkpoint()
    memory.close()
    shutil.copy(backup, home.journal_file("ana"))
    assert texts(open_memory(notify=notices.append)) == [FACT]
    assert "restored or replaced" in notices[0]


@pytest.mark.usefixtures("stored")
def test_a_journal_restored_and_written_past_the_state_is_noticed(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    backup = home.root / "backup"
    shutil.copy(home.journal_file("ana"), backup)
    with open_memory() as memory:
        memory.remember("monday", "user", "The dog is called Crumb now.")
        memory.checkpoint()
    shutil.copy(backup, home.journal_file("ana"))
    with open_journal(home, "ana") as journal:
        for place in range(3):
            journal.append("monday", "user", f"The dog likes ball number {place}.")
    memory = open_memory(notify=notices.append)
    found = [item.text for item in memory.recall("What dog ball is called Crumb?", limit=10)]
    assert "restored or replaced" in notices[0]
    assert not any("Crumb" in text for text in found)
    assert sum("ball number" in text for text in found) == 3


@pytest.mark.usefixtures("stored")
def test_a_forgetting_that_failed_is_tried_again(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()

    def fail(self: InMemory, seqs: object) -> bool:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(InMemory, "forget", fail)
        with pytest.raises(OSError, match="no space"):
            forget(memory, [1])
    assert memory.recall("What is my dog called?") == []


@pytest.mark.usefixtures("stored")
def test_what_is_forgotten_after_a_restored_journal_is_forgotten(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", "something else")
    memory.close()
    backup = home.root / "backup"
    shutil.copy(home.journal_file("ana"), backup)
    memory = open_memory()
    forget(memory, [2])
    memory.close()
    shutil.move(backup, home.journal_file("ana"))
    memory = open_memory()
    forget(memory, [1])
    assert texts(memory) == []
    assert b"Biscuit" not in bytes_of(home.root)


@pytest.mark.usefixtures("stored")
def test_a_changed_manifest_is_rebuilt(home: Home, open_memory: OpenMemory, notices: list[str]) -> None:
    path = next(home.backend_folder("ana", "in_memory").glob("*/manifest.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"position": {"line": 3}}))
    assert texts(open_memory(notify=notices.append)) == [FACT]
    assert len(notices) == 1


# forgetting and rebuilding


def test_a_backend_that_cannot_forget_is_rebuilt_without_the_turn(
    home: Home, open_memory: OpenMemory, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Stubborn)
    memory = open_memory(backend="stubborn", notify=notices.append)
    memory.remember("monday", "user", FACT)
    memory.remember("monday", "user", "The dog is old.")
    memory.checkpoint()
    assert forget(memory, [1]).turns == (1,)
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
    assert memory.rebuild() == 2
    assert memory.recall(QUESTION) == before
    found = store_of(home).inspect()
    assert found is not None
    assert found.position == memory.position == Position(2, 0)


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
    found = store_of(home).inspect()
    assert found is not None
    assert found.position.seq == 64
    tell(home, 1)
    open_memory().close()
    found = store_of(home).inspect()
    assert found is not None
    assert found.position.seq == 128


def test_closing_twice_is_harmless_and_leaves_no_working_files(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory()
    assert store_of(home).has_scratch()
    memory.close()
    memory.close()
    assert not store_of(home).has_scratch()
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
        with pytest.raises(StorageError, match="No turn is lost"):
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

    def remember(self, turns: Sequence[Turn]) -> None:
        if "remember" in self.fail:
            self.fail.clear()
            super().remember(turns[:1])
            raise MemoryError("no room")
        super().remember(turns)

    def forget(self, seqs: Collection[int]) -> bool:
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
    wanted = {1, 2, 3, 4} if where == "remember" else {2}
    memory.checkpoint()  # of what was stored before, not of what is left of the change
    assert {seq for item in memory.recall("sea", limit=9) for seq in item.seqs} == wanted
    memory.close()
    again = open_memory(wait_seconds=0)
    assert {seq for item in again.recall("sea", limit=9) for seq in item.seqs} == wanted
