"""Contract cases of flags, results and pictures: a backend does what its class declares."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from memagent.agent.journal import NewTurn
from memagent.agent.testing.recall_cases import FACT, QUESTION, texts
from memagent.backends import registry
from memagent.backends.errors import SettingError
from memagent.backends.picture import Grid, Series, Table
from memagent.backends.protocol import MemoryBackend, ModelMemory
from memagent.backends.records import Use, WriteResult

if TYPE_CHECKING:
    from pathlib import Path

    from memagent.agent.memory import Memory
    from memagent.agent.testing.contract import OpenMemory

_FEW, _MANY = 3, 60


def backend_of(memory: Memory) -> MemoryBackend:
    """Return the backend of a memory that was opened with one backend."""
    return memory.followers[0].backend


def overridden(kind: type[MemoryBackend]) -> set[str]:
    """Return the names that a backend's class defines itself or inherits from a class below ``MemoryBackend``."""
    return {name for base in kind.__mro__ if base not in MemoryBackend.__mro__ for name in vars(base)}


def add_turns(memory: Memory, count: int) -> None:
    """Add statements and one fact to a memory.

    Args:
        memory: an open memory.
        count: number of statements.
    """
    for number in range(count):
        memory.remember("chat", "user", f"The ferry number {number} leaves at {number % 24} o'clock.")
    memory.remember("monday", "user", FACT)


class FlagCases:
    """A backend does what its flags declare, and recall changes nothing."""

    backend: ClassVar[str]

    def kind(self) -> type[MemoryBackend]:
        """Return the backend's class."""
        return registry.get(self.backend)

    def test_flags_fit_the_class(self) -> None:
        """Name, needs and flags fit what the class implements, and the class has a docstring."""
        kind = self.kind()
        assert kind.name == self.backend
        assert issubclass(kind, MemoryBackend)
        assert kind.needs <= {"embedder", "local_model"}
        assert ("consolidate" in overridden(kind)) == kind.consolidates
        assert ("note_use" in overridden(kind)) == kind.follows_use
        assert ("train" in overridden(kind)) == kind.trainable
        assert issubclass(kind, ModelMemory) == kind.model_channel
        assert (kind.__doc__ or "").strip()

    def test_uses_only_the_models_it_needs(self, open_memory: OpenMemory) -> None:
        """The backend builds no model that ``needs`` does not name."""

        def refuse() -> Any:
            raise AssertionError("the backend builds a model that ``needs`` does not name")

        memory = open_memory()
        resources = memory.followers[0].resources
        if "embedder" not in self.kind().needs:
            resources.make_embedder = refuse
        if "local_model" not in self.kind().needs:
            resources.make_model = refuse
        add_turns(memory, _FEW)
        memory.recall(QUESTION)
        memory.checkpoint()

    def test_returns_a_result_for_each_turn(self, open_memory: OpenMemory) -> None:
        """``remember`` returns a result for each turn, and stores no turn twice."""
        memory = open_memory()
        add_turns(memory, _FEW)
        turns = list(memory.journal.turns())
        fresh = open_memory("bob")
        results = backend_of(fresh).remember(turns)
        assert [result.seq for result in results] == [turn.seq for turn in turns]
        assert all(isinstance(result, WriteResult) for result in results)
        assert all(0 <= result.strength <= 1 for result in results if result.strength is not None)
        items = fresh.stats().items
        again = backend_of(fresh).remember(turns)
        assert [result.stored for result in again] == [False] * len(turns)
        assert fresh.stats().items == items

    def test_recalling_is_a_pure_read(self, open_memory: OpenMemory) -> None:
        """Recall and pictures change nothing: repeated recalls give the same, and so does a rebuilt memory."""
        memory = open_memory()
        add_turns(memory, _FEW)
        first, items = memory.recall(QUESTION), memory.stats().items
        for _ in range(3):
            assert memory.recall(QUESTION) == first
            memory.picture(QUESTION)
        assert memory.stats().items == items
        memory.rebuild()
        assert texts(memory.recall(QUESTION)) == texts(first)

    @pytest.mark.parametrize("with_content", [True, False], ids=["with content", "seqs only"])
    def test_forgets_single_turns_if_it_says_so(self, open_memory: OpenMemory, with_content: bool) -> None:
        """``forget`` returns True exactly if ``exact_forget`` is set, and then recalls no forgotten turn."""
        memory = open_memory()
        add_turns(memory, _FEW)
        turns = list(memory.journal.turns())
        before = memory.stats().items
        removed = backend_of(memory).forget([turns[-1].seq, 999], turns[-1:] if with_content else [])
        if with_content or not self.kind().exact_forget:
            assert removed == self.kind().exact_forget
        if removed:
            assert all(turns[-1].seq not in hit.seqs for hit in backend_of(memory).recall(QUESTION, limit=50))
            assert memory.stats().items <= before

    def test_consolidating_loses_nothing_that_it_does_not_say(self, open_memory: OpenMemory) -> None:
        """The report of ``consolidate`` agrees with ``stats``."""
        memory = open_memory()
        add_turns(memory, _FEW)
        report = memory.consolidate()
        assert report.summary.endswith(".")
        assert report.after == memory.stats().items
        assert report.after <= report.before

    def test_a_fixed_size_stays(self, tmp_path: Path, open_memory: OpenMemory) -> None:
        """The stored state of a ``fixed_size`` backend does not grow with the number of turns."""
        if not self.kind().fixed_size:
            pytest.skip("it grows")
        memory = open_memory()
        add_turns(memory, _FEW)
        few = self._stored_bytes(memory, tmp_path / "few")
        add_turns(memory, _MANY)
        assert self._stored_bytes(memory, tmp_path / "many") <= few * 1.05 + 64

    def test_only_a_backend_that_says_so_regenerates(self, open_memory: OpenMemory) -> None:
        """Recollections are marked as regenerated only if ``regenerates`` is set."""
        memory = open_memory()
        add_turns(memory, _FEW)
        if not self.kind().regenerates:
            assert not any(item.regenerated for item in memory.recall(QUESTION))

    def test_forgetting_a_reply_undoes_its_use(self, open_memory: OpenMemory) -> None:
        """Forgetting a reply undoes what ``note_use`` changed for it."""
        if not self.kind().follows_use:
            pytest.skip("it does not follow use")
        memory = open_memory()
        add_turns(memory, _FEW)
        turns = list(memory.journal.turns())
        before = backend_of(memory).stats()
        backend_of(memory).note_use([Use(turns[-1].seq + 1, (turns[-1].seq,), turns[-1].created_at)])
        if backend_of(memory).forget([turns[-1].seq + 1]):
            assert backend_of(memory).stats() == before

    def test_uses_come_at_their_places(self, open_memory: OpenMemory) -> None:
        """A turn may use memory and be remembered, and the next one may use it: read at once or one by one, it is the same."""
        if not self.kind().follows_use:
            pytest.skip("it does not follow use")
        memory = open_memory()
        add_turns(memory, _FEW)
        first = list(memory.journal.turns())[-1].seq
        notes = [
            NewTurn("notes", "user", f"Note {place} on turn {seq}.", in_view=(seq,), recalled=(seq,))
            for place, seq in enumerate((first, first + 1, first + 2))
        ]
        for note in notes:
            memory.journal.extend([note])
            memory.catch_up()
        stats = backend_of(memory).stats()
        memory.rebuild()
        assert backend_of(memory).stats() == stats

    @pytest.mark.parametrize("query", ["", QUESTION], ids=["memory", "recall"])
    def test_pictures_are_plain_data(self, open_memory: OpenMemory, query: str) -> None:
        """Pictures are tables, grids or series, and JSON can represent them."""
        memory = open_memory()
        add_turns(memory, _FEW)
        pictures = memory.picture(query)
        assert pictures
        for picture in pictures:
            assert isinstance(picture, Table | Grid | Series)
            assert json.loads(json.dumps(asdict(picture)))["title"] == picture.title

    def test_training_is_announced(self, open_memory: OpenMemory) -> None:
        """A trainable backend has a plan; another one refuses to train."""
        resources = open_memory().followers[0].resources
        kind = self.kind()
        if kind.trainable:
            plan = kind.training_plan(kind.Config(), resources)
            assert plan.minutes >= 0
            assert plan.bytes >= 0
            assert plan.summary.endswith(".")
        else:
            with pytest.raises(SettingError, match="no weights to train"):
                kind.train(kind.Config(), replace(resources))

    def _stored_bytes(self, memory: Memory, folder: Path) -> int:
        folder.mkdir()
        backend_of(memory).save(folder)
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
