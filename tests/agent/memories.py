"""What the tests of a memory share: a fact, backends with a fault, and a look at what is stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from memagent.agent.home import Home
from memagent.agent.journal import NewTurn
from memagent.agent.memory import Memory, open_journal
from memagent.agent.memory.checkpoint import CheckpointStore
from memagent.agent.memory.workspace import Scratch
from memagent.backends import registry
from memagent.backends.in_memory import InMemory, InMemoryConfig
from memagent.backends.protocol import Fingerprint, MemoryBackend, Resources
from memagent.backends.records import Turn, WriteResult

FACT = "My dog is called Biscuit."
QUESTION = "What is the dog called?"


class Stubborn(InMemory):
    """Cannot forget single turns."""

    name: ClassVar[str] = "stubborn"

    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        return False


class Retrained(InMemory):
    """The same backend after its model has changed."""

    @classmethod
    def fingerprint(cls, config: InMemoryConfig, resources: Resources) -> Fingerprint:
        return {"format": 3}


class Breaking(InMemory):
    """Fails on the first turn."""

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        raise RuntimeError("it broke")


def offer(monkeypatch: pytest.MonkeyPatch, backend: type[MemoryBackend]) -> None:
    """Let the registry give this class for every name."""
    monkeypatch.setattr(registry, "get", lambda name: backend)


def store_of(home: Home, backend: str = "in_memory", user: str = "ana") -> CheckpointStore:
    return CheckpointStore(home.backend_folder(user, backend))


def scratch_of(home: Home, backend: str = "in_memory", user: str = "ana") -> Scratch:
    return Scratch(home.backend_folder(user, backend))


def texts(memory: Memory, query: str = QUESTION) -> list[str]:
    return [item.text for item in memory.recall(query)]


def bytes_of(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def tell(home: Home, count: int) -> None:
    """Write turns into the journal behind the backend's back."""
    with open_journal(home, "ana") as journal:
        journal.extend([NewTurn("told", "user", f"turn {place}") for place in range(count)])
