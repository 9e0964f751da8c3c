"""A dictionary of turns, recalled by the words they share with the question.

It needs no model and no database, keeps the whole contract, and so stands in for the others wherever
a test is about the rest of the agent. It is also the file to copy when writing a backend.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from memagent.backends.errors import CheckpointError
from memagent.backends.protocol import Fingerprint, MemoryBackend, Resources
from memagent.backends.records import BackendStats, Hit, Turn, WriteResult
from memagent.backends.shared.turns import turn_fields, turn_from_fields

_FORMAT = 2
_STOP_WORDS_TEXT = """
a an and are as at be but by do does for from had has have how i in is it my of on or that the this
to was what when where which who why will with you your
"""
_STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())


def _content_words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold())) - _STOP_WORDS


@dataclass(frozen=True)
class InMemoryConfig:
    """Settings of the memory ``in_memory``.

    Attributes:
        abstain: return only what seems relevant; switch off for retrieval benchmarks.
        threshold: lowest share of the question's content words that a recalled turn holds, 0 to 1.
    """

    abstain: bool = True
    threshold: float = 0.25


class InMemory(MemoryBackend):
    """Recalls the turns that share most words with the question; its state grows by one entry a turn.

    Attributes:
        turns: the turns that are held, by seq.
    """

    name: ClassVar[str] = "in_memory"
    Config: ClassVar[type[InMemoryConfig]] = InMemoryConfig
    exact_forget: ClassVar[bool] = True

    def __init__(self, config: InMemoryConfig, resources: Resources) -> None:
        self.config = config
        self.turns: dict[int, Turn] = {}

    @classmethod
    def fingerprint(cls, config: InMemoryConfig, resources: Resources) -> Fingerprint:
        """Return the format of the stored turns: no model and no setting takes part in it."""
        return {"format": _FORMAT}

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        """Keep turns as they are."""
        results = [WriteResult(turn.seq, stored=turn.seq not in self.turns) for turn in turns]
        self.turns.update({turn.seq: turn for turn in turns})
        return results

    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        """Return the turns that hold enough of the question's words, in time proportional to all turns.

        Returns:
            Each hit's score is the share of the question's words that its turn holds, above 0 and up to 1. Of equal ones, the
            latest turn comes first.
        """
        words = _content_words(query)
        if not words:
            return []
        coverage = {
            seq: len(words & _content_words(turn.text)) / len(words) for seq, turn in self.turns.items()
        }
        threshold = self.config.threshold if self.config.abstain else 0.0
        hits = [seq for seq, share in coverage.items() if share > 0 and share >= threshold]
        hits.sort(key=lambda seq: (-coverage[seq], -seq))
        return [
            Hit((seq,), coverage[seq], why=f"It holds {coverage[seq]:.0%} of the question's words.")
            for seq in hits[:limit]
        ]

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Remove turns; this costs no more than their number."""
        for seq in seqs:
            self.turns.pop(seq, None)
        return True

    def stats(self) -> BackendStats:
        """Return the number of turns, and the size of their texts in UTF-8."""
        text_bytes = sum(len(turn.text.encode()) for turn in self.turns.values())
        return BackendStats(items=len(self.turns), tokens=0, bytes_on_disk=0, bytes_in_memory=text_bytes)

    def save(self, directory: Path) -> None:
        """Write the turns as JSON."""
        rows = [turn_fields(turn) for turn in self.turns.values()]
        (directory / "turns.json").write_text(json.dumps(rows), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path, config: InMemoryConfig, resources: Resources) -> Self:
        """Read the turns that ``save`` wrote.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            rows = json.loads((directory / "turns.json").read_text(encoding="utf-8"))
            turns = [turn_from_fields(row) for row in rows]
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"turns.json cannot be read: {error}") from error
        backend = cls(config, resources)
        backend.remember(turns)
        return backend
