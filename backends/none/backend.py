"""The control: remembers nothing, recalls nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from memagent.backends.protocol import Fingerprint, MemoryBackend, Resources
from memagent.backends.records import BackendStats, Hit, Turn, WriteResult


@dataclass(frozen=True)
class NoMemoryConfig:
    """Settings of the memory ``none``: there are none."""


class NoMemory(MemoryBackend):
    """Remembers nothing: an agent's right answers with it do not come from memory."""

    name: ClassVar[str] = "none"
    Config: ClassVar[type[NoMemoryConfig]] = NoMemoryConfig
    exact_forget: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = True

    def __init__(self, config: NoMemoryConfig, resources: Resources) -> None:
        self.config = config

    @classmethod
    def fingerprint(cls, config: NoMemoryConfig, resources: Resources) -> Fingerprint:
        """Return the format alone: there is no state."""
        return {"format": 1}

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        """Store nothing, and say so for each turn."""
        return [WriteResult(turn.seq, stored=False) for turn in turns]

    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        """Return no hits."""
        return []

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Return True: there is nothing to remove."""
        return True

    def stats(self) -> BackendStats:
        """Return zeros."""
        return BackendStats(items=0, tokens=0, bytes_on_disk=0, bytes_in_memory=0)

    def save(self, directory: Path) -> None:
        """Write nothing."""
        return

    @classmethod
    def load(cls, directory: Path, config: NoMemoryConfig, resources: Resources) -> Self:
        """Return a new backend."""
        return cls(config, resources)
