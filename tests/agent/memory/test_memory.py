"""A journal with a backend that follows it: remembering, recalling, other writers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memagent.agent.home import Home
from memagent.agent.memory import Memory, open_journal
from memagent.agent.memory.checkpoint import Position
from memagent.backends.in_memory import InMemory
from memagent.backends.records import Turn, WriteResult
from tests.agent.memories import (
    FACT,
    QUESTION,
    bytes_of,
    store_of,
    tell,
    texts,
)
from tests.conftest import OpenMemory


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

    def recording(backend: InMemory, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        read.append([turn.seq for turn in turns])
        return remember(backend, turns)

    monkeypatch.setattr(InMemory, "remember", recording)
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
    calls: list[tuple[int | None, str]] = []

    def progress(items: object, *, total: int | None, label: str) -> object:
        calls.append((total, label))
        return items

    memory = open_memory(progress=progress)
    assert memory.stats().items == 700
    assert calls == [(3, "Reading the journal into in_memory")]
