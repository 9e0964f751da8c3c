"""``note_use``: which recollections replies had in view, in the journal's order, however the journal is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from memagent.agent.home import Home
from memagent.agent.journal import Journal
from memagent.agent.memory import follower, open_journal
from memagent.backends.in_memory import InMemory, InMemoryConfig
from memagent.backends.protocol import Resources
from memagent.backends.records import Turn, Use, WriteResult
from tests.agent.memories import offer
from tests.conftest import OpenMemory

Event = int | tuple[int, tuple[int, ...]]
"""Seq of a turn that was remembered, or seq of a reply with the turns it had recalled."""

EXPECTED: list[Event] = [1, 2, (3, (1,)), (4, (1, 2)), 5, (6, (2,)), 7, 8]


class FollowsUse(InMemory):
    """Records turns and uses in the order in which they come, and stores that record."""

    follows_use: ClassVar[bool] = True

    def __init__(self, config: InMemoryConfig, resources: Resources) -> None:
        super().__init__(config, resources)
        self.events: list[Event] = []
        self.uses: list[Use] = []

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        self.events += [turn.seq for turn in turns]
        return super().remember(turns)

    def note_use(self, uses: Sequence[Use]) -> None:
        self.events += [(use.seq, use.recalled) for use in uses]
        self.uses += uses

    @classmethod
    def load(cls, directory: Path, config: InMemoryConfig, resources: Resources) -> Self:
        backend = super().load(directory, config, resources)
        backend.events.clear()
        return backend


@pytest.fixture
def recalled(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, ...]]:
    """What ``Turn.recalled`` is, by the reply's seq.

    TODO: the journal does not store ``recalled`` on this branch, so ``Journal.turns`` is patched to fill it in. Once
    ``NewTurn.recalled`` exists, pass it to ``journal.append`` in ``write_conversation`` and delete this fixture.
    """
    recalled_by_seq: dict[int, tuple[int, ...]] = {}
    turns = Journal.turns

    def with_recalled(journal: Journal, *arguments: Any, **options: Any) -> Iterator[Turn]:
        for turn in turns(journal, *arguments, **options):
            yield replace(turn, recalled=recalled_by_seq.get(turn.seq, ()))

    monkeypatch.setattr(Journal, "turns", with_recalled)
    return recalled_by_seq


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, FollowsUse)


def write_conversation(home: Home, recalled: dict[int, tuple[int, ...]]) -> None:
    """Write eight turns of which three replies had recollections in view."""
    recalled |= {3: (1,), 4: (1, 2), 6: (2,)}
    with open_journal(home, "ana") as journal:
        for seq in range(1, 9):
            role = "assistant" if seq in recalled else "user"
            in_view = recalled.get(seq, ())
            journal.append("monday", role, f"turn {seq}", in_view=in_view, derived=bool(in_view))


def backend_of(memory: Any) -> FollowsUse:
    backend: FollowsUse = memory.followers[0].backend
    return backend


@pytest.mark.parametrize("batch", [1, 2, 3, 256])
def test_uses_come_between_the_turns_in_journal_order_whatever_the_batches(
    batch: int,
    home: Home,
    open_memory: OpenMemory,
    recalled: dict[int, tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower, "_BATCH", batch)
    write_conversation(home, recalled)
    memory = open_memory()
    assert backend_of(memory).events == EXPECTED
    memory.rebuild()
    assert backend_of(memory).events == EXPECTED


def test_a_use_has_the_reply_its_turns_and_its_time(
    home: Home, open_memory: OpenMemory, recalled: dict[int, tuple[int, ...]]
) -> None:
    write_conversation(home, recalled)
    memory = open_memory()
    replies = memory.journal.get([3, 4, 6])
    assert backend_of(memory).uses == [
        Use(reply.seq, recalled[reply.seq], reply.created_at) for reply in replies
    ]


def test_turns_that_are_read_one_by_one_give_the_same_as_all_at_once(
    home: Home, open_memory: OpenMemory, recalled: dict[int, tuple[int, ...]]
) -> None:
    memory = open_memory()
    recalled |= {3: (1,), 4: (1, 2), 6: (2,)}
    for seq in range(1, 9):
        role = "assistant" if seq in recalled else "user"
        memory.remember("monday", role, f"turn {seq}", in_view=recalled.get(seq, ()), derived=seq in recalled)
    assert backend_of(memory).events == EXPECTED


def test_after_a_checkpoint_only_later_uses_are_given(
    home: Home, open_memory: OpenMemory, recalled: dict[int, tuple[int, ...]]
) -> None:
    write_conversation(home, recalled)
    with open_memory() as memory:
        memory.checkpoint()
    recalled[10] = (8,)
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", "turn 9")
        journal.append("monday", "assistant", "turn 10", in_view=(8,), derived=True)
    memory = open_memory()
    assert backend_of(memory).events == [9, (10, (8,))]


def test_a_rebuild_after_forgetting_a_reply_gives_the_others_only(
    home: Home, open_memory: OpenMemory, recalled: dict[int, tuple[int, ...]]
) -> None:
    write_conversation(home, recalled)
    memory = open_memory()
    memory.forget([4])
    memory.rebuild()
    assert backend_of(memory).events == [1, 2, (3, (1,)), 5, (6, (2,)), 7, 8]


def test_a_backend_that_does_not_follow_use_is_not_given_any(
    home: Home,
    open_memory: OpenMemory,
    recalled: dict[int, tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FollowsUse, "follows_use", False)
    write_conversation(home, recalled)
    assert backend_of(open_memory()).events == [1, 2, 5, 7, 8]
