"""``note_use``: which recollections replies had in view, in the journal's order, however the journal is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from memagent.agent.home import Home
from memagent.agent.journal import NewTurn
from memagent.agent.memory import follower, open_journal
from memagent.backends.in_memory import InMemory, InMemoryConfig
from memagent.backends.protocol import Resources
from memagent.backends.records import Turn, Use, WriteResult
from tests.agent.memories import offer
from tests.conftest import OpenMemory

Event = int | tuple[int, tuple[int, ...]]
"""Seq of a turn that was remembered, or seq of a reply with the turns it had recalled."""

RECALLED = {3: (1,), 4: (1, 2), 6: (2,)}
"""The turns that each reply had recalled, by the seq of the reply."""

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


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, FollowsUse)


def conversation() -> list[NewTurn]:
    """Return eight turns of which three are replies that had recollections in view."""
    turns = []
    for seq in range(1, 9):
        seqs = RECALLED.get(seq, ())
        role = "assistant" if seqs else "user"
        turns.append(NewTurn("monday", role, f"turn {seq}", in_view=seqs, recalled=seqs, derived=bool(seqs)))
    return turns


def write_conversation(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        journal.extend(conversation())


def backend_of(memory: Any) -> FollowsUse:
    backend: FollowsUse = memory.followers[0].backend
    return backend


@pytest.mark.parametrize("batch", [1, 2, 3, 256])
def test_uses_come_between_the_turns_in_journal_order_whatever_the_batches(
    batch: int,
    home: Home,
    open_memory: OpenMemory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower, "_BATCH", batch)
    write_conversation(home)
    memory = open_memory()
    assert backend_of(memory).events == EXPECTED
    memory.rebuild()
    assert backend_of(memory).events == EXPECTED


def test_a_use_has_the_reply_its_turns_and_its_time(home: Home, open_memory: OpenMemory) -> None:
    write_conversation(home)
    memory = open_memory()
    replies = memory.journal.get([3, 4, 6])
    assert backend_of(memory).uses == [
        Use(reply.seq, RECALLED[reply.seq], reply.created_at) for reply in replies
    ]


def test_turns_that_are_read_one_by_one_give_the_same_as_all_at_once(
    home: Home, open_memory: OpenMemory
) -> None:
    memory = open_memory()
    for turn in conversation():
        memory.remember(
            turn.session,
            turn.role,
            turn.text,
            in_view=turn.in_view,
            recalled=turn.recalled,
            derived=turn.derived,
        )
    assert backend_of(memory).events == EXPECTED


def test_after_a_checkpoint_only_later_uses_are_given(home: Home, open_memory: OpenMemory) -> None:
    write_conversation(home)
    with open_memory() as memory:
        memory.checkpoint()
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", "turn 9")
        journal.append("monday", "assistant", "turn 10", in_view=(8,), recalled=(8,), derived=True)
    memory = open_memory()
    assert backend_of(memory).events == [9, (10, (8,))]


def test_a_rebuild_after_forgetting_a_reply_gives_the_others_only(
    home: Home, open_memory: OpenMemory
) -> None:
    write_conversation(home)
    memory = open_memory()
    memory.forget([4])
    memory.rebuild()
    assert backend_of(memory).events == [1, 2, (3, (1,)), 5, (6, (2,)), 7, 8]


def test_a_backend_that_does_not_follow_use_is_not_given_any(
    home: Home,
    open_memory: OpenMemory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FollowsUse, "follows_use", False)
    write_conversation(home)
    assert backend_of(open_memory()).events == [1, 2, 5, 7, 8]
