"""A dictionary of turns, recalled by the words they share with the question.

It needs no model and no database, keeps the whole contract, and so stands in for the others wherever
a test is about the plumbing. It is also the file to copy when writing a backend.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Self

from memagent.backends.errors import CheckpointError
from memagent.backends.protocol import Fingerprint, MemoryBackend, Resources
from memagent.backends.records import BackendStats, Hit, Turn, WriteResult

_STOP_TEXT = """
a an and are as at be but by do does for from had has have how i in is it my of on or that the this
to was what when where which who why will with you your
"""
_STOP = frozenset(_STOP_TEXT.split())


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold())) - _STOP


@dataclass(frozen=True)
class InMemoryConfig:
    """Settings of the in-memory backend.

    Attributes:
        abstain: return only what seems relevant; switch off for retrieval benchmarks.
        threshold: smallest share of the question's words a turn must hold to be recalled, 0 to 1.
    """

    abstain: bool = True
    threshold: float = 0.25


class InMemory(MemoryBackend):
    """Recalls the turns that share most words with the question; memory grows by one entry a turn."""

    name: ClassVar[str] = "in_memory"
    Config: ClassVar[type[InMemoryConfig]] = InMemoryConfig
    exact_forget: ClassVar[bool] = True

    def __init__(self, config: InMemoryConfig, resources: Resources) -> None:
        self.config = config
        self._turns: dict[int, Turn] = {}

    @classmethod
    def fingerprint(cls, config: InMemoryConfig, resources: Resources) -> Fingerprint:
        return {"format": 1}

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        results = [WriteResult(turn.seq, stored=turn.seq not in self._turns) for turn in turns]
        self._turns.update({turn.seq: turn for turn in turns})
        return results

    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        asked = _words(query)
        if not asked:
            return []
        scored = [(len(asked & _words(turn.text)) / len(asked), turn) for turn in self._turns.values()]
        least = self.config.threshold if self.config.abstain else 0.0
        found = [pair for pair in scored if pair[0] > 0 and pair[0] >= least]
        found.sort(key=lambda pair: (-pair[0], -pair[1].seq))
        return [
            Hit((turn.seq,), score, why=f"It holds {score:.0%} of the question's words.")
            for score, turn in found[:limit]
        ]

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        for seq in seqs:
            self._turns.pop(seq, None)
        return True

    def stats(self) -> BackendStats:
        size = sum(len(turn.text.encode()) for turn in self._turns.values())
        return BackendStats(items=len(self._turns), tokens=0, bytes_on_disk=0, bytes_in_memory=size)

    def save(self, directory: Path) -> None:
        rows = [asdict(turn) | {"created_at": turn.created_at.isoformat()} for turn in self._turns.values()]
        (directory / "turns.json").write_text(json.dumps(rows), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path, config: InMemoryConfig, resources: Resources) -> Self:
        try:
            rows = json.loads((directory / "turns.json").read_text(encoding="utf-8"))
            turns = [
                Turn(
                    **row
                    | {
                        "created_at": datetime.fromisoformat(row["created_at"]),
                        "in_view": tuple(row["in_view"]),
                    }
                )
                for row in rows
            ]
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"turns.json cannot be read: {error}") from error
        backend = cls(config, resources)
        backend.remember(turns)
        return backend
