"""What ``forget`` of a backend is given: the turns' content while it is available, and seqs alone afterwards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

import pytest

from memagent.agent.home import Home
from memagent.agent.memory import Memory, open_journal
from memagent.agent.memory.follower import Follower
from memagent.backends import registry
from memagent.backends.in_memory import InMemory
from memagent.backends.records import Turn
from tests.agent.memories import FACT, bytes_of, texts
from tests.conftest import OpenMemory

SEA = "The sea is warm."


class NeedsContent(InMemory):
    """Forgets a turn only if it gets the turn's content, and records what it gets."""

    calls: ClassVar[list[tuple[list[int], list[str]]]] = []

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        self.calls.append((sorted(seqs), [turn.text for turn in turns]))
        return {turn.seq for turn in turns} >= set(seqs) and super().forget(seqs, turns)


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[str]]]:
    """Let ``in_memory`` need the content; return the seqs and texts of each call of ``forget``."""
    get = registry.get
    monkeypatch.setattr(registry, "get", lambda name: NeedsContent if name == "in_memory" else get(name))
    monkeypatch.setattr(NeedsContent, "calls", [])
    return NeedsContent.calls


def filled(memory: Memory) -> Memory:
    memory.remember("monday", "user", FACT)
    memory.remember("monday", "user", SEA)
    memory.checkpoint()
    return memory


def test_an_open_backend_gets_the_content_of_the_turns_and_of_replies_that_go_with_them(
    open_memory: OpenMemory, calls: list[tuple[list[int], list[str]]], notices: list[str]
) -> None:
    memory = filled(open_memory(notify=notices.append))
    memory.remember("monday", "assistant", "Biscuit is a nice name.", in_view=(1,))
    assert memory.forget([1, 99]).replies == (3,)
    assert calls == [([1, 3], [FACT, "Biscuit is a nice name."])]
    assert (texts(memory, "dog sea"), notices) == ([SEA], [])


def test_a_stored_state_of_another_backend_gets_the_content_too(
    home: Home, open_memory: OpenMemory, calls: list[tuple[list[int], list[str]]]
) -> None:
    filled(open_memory()).close()
    with open_memory(backend="none") as memory:
        assert memory.forget([1]).remaining == ()
    assert calls == [([1], [FACT])]
    assert b"Biscuit" not in bytes_of(home.root)


def test_a_turn_that_the_backend_has_not_read_is_not_given_to_it(
    home: Home, open_memory: OpenMemory, calls: list[tuple[list[int], list[str]]]
) -> None:
    memory = filled(open_memory())
    with open_journal(home, "ana") as journal:
        journal.append("elsewhere", "user", "The dog is old.")
    memory.forget([2, 3])
    assert calls == [([2], [SEA])]


def test_without_the_content_a_backend_that_needs_it_is_rebuilt(
    home: Home,
    open_memory: OpenMemory,
    calls: list[tuple[list[int], list[str]]],
    notices: list[str],
) -> None:
    memory = filled(open_memory(notify=notices.append))
    with open_journal(home, "ana") as journal:  # as another process does
        journal.forget([1])
    assert texts(memory, "dog sea") == [SEA]
    assert calls == [([1], [])]
    assert notices == ["in_memory cannot forget single turns; it is being rebuilt without them."]
    assert b"Biscuit" not in bytes_of(home.root)


def test_after_a_crash_the_content_is_gone_and_the_backend_is_rebuilt(
    home: Home,
    open_memory: OpenMemory,
    monkeypatch: pytest.MonkeyPatch,
    calls: list[tuple[list[int], list[str]]],
    notices: list[str],
) -> None:
    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    memory = filled(open_memory())
    with monkeypatch.context() as patched:
        patched.setattr("memagent.agent.journal.journal.purge", killed)
        with pytest.raises(KeyboardInterrupt):
            memory.forget([1])
        patched.setattr(Follower, "close", Follower.abandon)
        memory.close()
    assert (calls, b"Biscuit" in bytes_of(home.root)) == ([], True)
    with open_memory(notify=notices.append, wait_seconds=0) as memory:
        assert calls == [([1], [])]
        assert notices == ["in_memory cannot forget single turns; it is being rebuilt without them."]
        assert texts(memory, "dog sea") == [SEA]
        assert memory.journal.unfinished() == []
    assert b"Biscuit" not in bytes_of(home.root)


def test_two_forgettings_of_which_one_has_lost_its_content_lead_to_a_rebuild(
    home: Home, open_memory: OpenMemory, calls: list[tuple[list[int], list[str]]], notices: list[str]
) -> None:
    memory = filled(open_memory(notify=notices.append))
    memory.remember("monday", "user", "The dog is old.")
    with open_journal(home, "ana") as journal:
        journal.forget([1])
    memory.forget([2])
    assert calls == [([1, 2], [SEA])]
    assert len(notices) == 1
    assert texts(memory, "dog sea") == ["The dog is old."]
