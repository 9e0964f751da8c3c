"""Provenance of recollections: session, role, speaker and times come from the journal, not from the backend."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from memagent.agent.home import Home
from memagent.agent.journal import Journal
from memagent.agent.memory import open_journal
from memagent.agent.memory.provenance import with_provenance
from memagent.backends.in_memory import InMemory
from memagent.backends.records import Hit, Recollection
from tests.agent.memories import offer
from tests.conftest import OpenMemory

OLD = "I live in Lisbon."
NEW = "I moved to Porto."
FIRST_DAY, SECOND_DAY = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 6, 2, tzinfo=UTC)


@pytest.fixture
def journal(home: Home) -> Iterator[Journal]:
    with open_journal(home, "ana") as journal:
        journal.append("monday", "user", OLD, speaker="Ana", created_at=FIRST_DAY)
        journal.append("tuesday", "assistant", NEW, created_at=SECOND_DAY)
        yield journal


def test_all_but_seqs_score_and_why_comes_from_the_journal(journal: Journal) -> None:
    assert with_provenance(journal, [Hit((1,), 0.5, "It fits.")]) == [
        Recollection(OLD, 0.5, (1,), "monday", "user", FIRST_DAY, "It fits.", speaker="Ana")
    ]


def test_the_first_of_several_turns_gives_the_provenance(journal: Journal) -> None:
    (item,) = with_provenance(journal, [Hit((2, 1), 0.5, "It fits.")])
    assert (item.text, item.seqs, item.session, item.role) == (NEW, (2, 1), "tuesday", "assistant")
    assert (item.speaker, item.created_at) == (None, SECOND_DAY)


def test_a_text_of_the_backend_is_used_as_it_is(journal: Journal) -> None:
    (item,) = with_provenance(journal, [Hit((1,), 0.5, "It fits.", text="Lisbon", regenerated=True)])
    assert (item.text, item.regenerated, item.session) == ("Lisbon", True, "monday")


def test_the_order_of_the_hits_stays(journal: Journal) -> None:
    hits = [Hit((2,), 0.1, "Second."), Hit((1,), 0.9, "First.")]
    assert [item.seqs for item in with_provenance(journal, hits)] == [(2,), (1,)]
    assert with_provenance(journal, []) == []


def test_a_hit_whose_turn_is_forgotten_or_unknown_is_left_out(journal: Journal) -> None:
    journal.forget([1])
    hits = [Hit((1,), 0.9, "Forgotten.", text=OLD), Hit((99,), 0.8, "Unknown."), Hit((2,), 0.5, "There.")]
    assert [item.text for item in with_provenance(journal, hits)] == [NEW]


def test_a_superseded_hit_says_by_which_turn_and_since_when(journal: Journal) -> None:
    (item,) = with_provenance(journal, [Hit((1,), 0.5, "It fits.", superseded_by=2)])
    assert (item.superseded_by, item.superseded_at) == (2, SECOND_DAY)


def test_a_hit_counts_as_current_again_when_the_superseding_turn_is_forgotten(journal: Journal) -> None:
    journal.forget([2])
    (item,) = with_provenance(journal, [Hit((1,), 0.5, "It fits.", superseded_by=2)])
    assert (item.superseded_by, item.superseded_at) == (None, None)


class Supersedes(InMemory):
    """Recalls its first turn, superseded by its second, and a turn that no journal has."""

    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        return [Hit((1,), 1.0, "It fits.", superseded_by=2), Hit((99,), 0.5, "It is not in the journal.")]


def test_a_memory_adds_the_provenance_to_what_its_backend_recalls(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Supersedes)
    memory = open_memory()
    memory.remember("monday", "user", OLD, speaker="Ana", created_at=FIRST_DAY)
    later = memory.remember("tuesday", "user", NEW, created_at=SECOND_DAY)
    (item,) = memory.recall("Where do I live?")
    assert (item.text, item.session, item.speaker) == (OLD, "monday", "Ana")
    assert (item.superseded_by, item.superseded_at) == (later.seq, SECOND_DAY)
