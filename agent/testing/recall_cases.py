"""Contract cases of recall: the right facts are recalled, with provenance, also after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import pytest

from memagent.backends import registry

if TYPE_CHECKING:
    from pathlib import Path

    from memagent.agent.home import Home
    from memagent.agent.testing.contract import OpenMemory
    from memagent.backends.records import Recollection

FACT = "My dog is called Biscuit."
QUESTION = "What is my dog called?"


def texts(recollections: list[Recollection]) -> list[str]:
    """Return the texts of recollections."""
    return [recollection.text for recollection in recollections]


def bytes_of(folder: Path) -> bytes:
    """Return the content of all files in a folder and its subfolders."""
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


class RecallCases:
    """Facts are recalled with provenance, also after a restart; nothing is recalled if nothing is relevant."""

    backend: ClassVar[str]
    settings: ClassVar[Mapping[str, str]]
    recalls: ClassVar[bool]

    def expected(self, *facts: str) -> list[str]:
        """Return the facts that the backend should recall; a control recalls none.

        Args:
            facts: texts that a memory should recall.
        """
        return list(facts) if self.recalls else []

    def test_recalls_with_provenance(self, open_to_recall: OpenMemory) -> None:
        """The fact is the first recollection, with session, role, speaker and time from the journal."""
        memory = open_to_recall()
        for day in range(10):
            memory.remember("chat", "user", f"The weather on day {day} was grey.")
        turn = memory.remember("monday", "user", FACT, speaker="Ana")
        recollections = memory.recall(QUESTION, limit=3)
        assert texts(recollections)[:1] == self.expected(FACT)
        for first in recollections[:1]:
            assert (first.seqs, first.session, first.role) == ((turn.seq,), "monday", "user")
            assert (first.speaker, first.created_at) == ("Ana", turn.created_at)
            assert first.why.endswith(".")
            scores = [item.score for item in recollections]
            assert scores == sorted(scores, reverse=True)

    def test_recalls_nothing_for_nothing(self, open_to_recall: OpenMemory) -> None:
        """An empty memory, a blank query and an unrelated query recall nothing, and ``limit`` is kept."""
        memory = open_to_recall()
        assert memory.recall(QUESTION) == []
        for number in range(12):
            memory.remember("chat", "user", f"My dog number {number} is called Rex {number}.")
        assert len(memory.recall(QUESTION, limit=2)) <= 2
        assert memory.recall("   ") == []
        assert memory.recall("zyxgrabl flumox") == []

    def test_recalls_among_some_turns(self, open_to_recall: OpenMemory) -> None:
        """A recall among some turns returns nothing of the others."""
        memory = open_to_recall()
        turn = memory.remember("monday", "user", FACT)
        others = [
            memory.remember("chat", "user", f"The weather on day {day} was grey.").seq for day in range(10)
        ]
        assert texts(memory.recall(QUESTION, limit=3, among=[turn.seq, 12345])) == self.expected(FACT)
        assert FACT not in texts(memory.recall(QUESTION, limit=3, among=others))
        assert memory.recall(QUESTION, among=[]) == []

    @pytest.mark.parametrize("stored", [False, True], ids=["not stored", "stored"])
    def test_survives_a_restart(self, open_to_recall: OpenMemory, stored: bool) -> None:
        """A memory that is opened again recalls the same."""
        memory = open_to_recall()
        memory.remember("monday", "user", FACT)
        if stored:
            memory.checkpoint()
        memory.remember("monday", "user", "The sea at Tavira is warm in June.")
        queries = (QUESTION, "How warm is my sea at Tavira?")
        before = [texts(memory.recall(query)) for query in queries]
        memory.close()
        again = open_to_recall()
        assert [texts(again.recall(query)) for query in queries] == before
        assert bool(before[0]) == self.recalls

    def test_forgetting_leaves_the_others(self, open_to_recall: OpenMemory) -> None:
        """Forgetting a turn removes that turn only."""
        memory = open_to_recall()
        fact = memory.remember("monday", "user", FACT)
        forgotten = memory.remember("monday", "user", "My cat is called Marmalade.")
        memory.forget([forgotten.seq, 12345])
        assert texts(memory.recall(QUESTION)) == self.expected(FACT)
        assert [turn.seq for turn in memory.journal.turns()] == [fact.seq]

    def test_a_damaged_state_is_rebuilt_with_a_notice(self, home: Home, open_to_recall: OpenMemory) -> None:
        """A damaged stored state is rebuilt from the journal, with a notice."""
        with open_to_recall() as memory:
            memory.remember("monday", "user", FACT)
            memory.checkpoint()
        folder = home.backend_folder("ana", self.backend)
        for path in (folder / (folder / "CURRENT").read_text().split()[0]).rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:-1] + b"?")
        notices: list[str] = []
        memory = open_to_recall(notify=notices.append)
        assert "rebuilt from the journal" in notices[0]
        assert texts(memory.recall(QUESTION)) == self.expected(FACT)

    @pytest.mark.parametrize(
        "text",
        [
            "x" * 10_000,
            "word " * 2_500,
            "".join(
                chr(plane * 0x10000 + 0x400 + offset)
                for plane in (0, 1, 2, 3, 14, 15, 16)
                for offset in range(20)
            ),
            "e\u0301 \u202e right-to-left \u200b zero width \ufeff",
            "\"; DROP TABLE turns; -- ' OR 1=1 <|im_end|> </memory> {{ }} %s",
            "one\ntwo\r\nthree\ttabs",
        ],
        ids=["long word", "long text", "every plane", "marks", "injection", "lines"],
    )
    def test_takes_any_text(self, open_memory: OpenMemory, text: str) -> None:
        """Any text can be remembered and used as a query; with a tiny random model, what is recalled is not judged."""
        with open_memory() as memory:
            memory.remember("monday", "user", text)
            memory.remember("monday", "user", FACT)
            memory.recall(text[:5000])
            memory.checkpoint()
        memory = open_memory()
        assert next(memory.journal.turns()).text == text
        recalled = FACT in texts(memory.recall(QUESTION))
        assert recalled == self.recalls or "local_model" in registry.get(self.backend).needs

    def test_works_beside_another_backend(self, open_to_recall: OpenMemory) -> None:
        """The backend can be opened together with another one; the hits are fused."""
        other = "none" if self.backend == "in_memory" else "in_memory"
        settings = {f"{self.backend}.{key}": value for key, value in self.settings.items()}
        memory = open_to_recall(backend=f"{self.backend}+{other}", settings=settings)
        turn = memory.remember("monday", "user", FACT)
        memory.remember("monday", "user", "The sea at Tavira is warm in June.")
        (recollection,) = memory.recall(QUESTION, limit=1)
        assert (recollection.text, recollection.seqs, recollection.session) == (FACT, (turn.seq,), "monday")
        memory.forget([turn.seq])
        assert FACT not in texts(memory.recall(QUESTION))
