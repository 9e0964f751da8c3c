"""Stored states that cannot be used: damaged, foreign, or ahead of a restored journal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from memagent.agent.checkpoint import Position
from memagent.agent.forgetting import forget
from memagent.agent.home import Home
from memagent.agent.memory import open_journal
from memagent.backends.errors import CheckpointError
from memagent.backends.in_memory import InMemory
from tests.agent.memories import (
    FACT,
    Retrained,
    bytes_of,
    offer,
    store_of,
    texts,
)
from tests.conftest import OpenMemory


def damage(home: Home) -> None:
    path = next(home.backend_folder("ana", "in_memory").glob("*/turns.json"))
    path.write_text(path.read_text().replace("Biscuit", "Biscott"))


@pytest.fixture
def stored(open_memory: OpenMemory) -> None:
    """Ana's memory, closed, with a checkpoint."""
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    memory.checkpoint()
    memory.close()


@pytest.mark.usefixtures("stored")
def test_a_damaged_checkpoint_is_rebuilt_with_a_notice(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    damage(home)
    memory = open_memory(notify=notices.append)
    assert texts(memory) == [FACT]
    assert len(notices) == 1
    assert "in_memory" in notices[0]
    assert "turns.json" in notices[0]
    assert "rebuilt from the journal (1 turns)" in notices[0]
    assert store_of(home).current() is None


@pytest.mark.usefixtures("stored")
def test_a_strict_opening_refuses_what_it_would_have_to_rebuild(home: Home, open_memory: OpenMemory) -> None:
    damage(home)
    before = bytes_of(store_of(home).folder)
    with pytest.raises(CheckpointError, match=r"turns\.json"):
        open_memory(strict=True)
    assert bytes_of(store_of(home).folder) == before
    assert texts(open_memory(wait_seconds=0)) == [FACT]


@pytest.mark.usefixtures("stored")
def test_a_state_its_backend_cannot_load_is_rebuilt(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    store = store_of(home)
    found = store.inspect()
    assert found is not None

    def save_nonsense(folder: Path) -> None:
        (folder / "turns.json").write_text("{}[")

    store.write(
        save_nonsense,
        journal_id=found.journal,
        user=found.user,
        fingerprint=found.fingerprint,
        position=found.position,
        last_id=found.last_id,
    )
    assert texts(open_memory(notify=notices.append)) == [FACT]
    assert "turns.json cannot be read" in notices[0]


@pytest.mark.usefixtures("stored")
def test_a_state_of_another_fingerprint_is_rebuilt(
    open_memory: OpenMemory, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Retrained)
    assert texts(open_memory(notify=notices.append)) == [FACT]
    assert "its format is 1, now it is 2" in notices[0]


@pytest.mark.usefixtures("stored")
def test_a_state_of_another_journal_is_rebuilt(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    for path in home.user_folder("ana").glob("journal.sqlite3*"):
        path.unlink()
    memory = open_memory(notify=notices.append)
    assert (texts(memory), memory.position) == ([], Position(0, 0))
    assert "another journal" in notices[0]


@pytest.mark.usefixtures("stored")
def test_a_state_ahead_of_a_restored_journal_is_rebuilt(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    backup = home.root / "backup"
    shutil.copy(home.journal_file("ana"), backup)
    memory = open_memory()
    memory.remember("monday", "user", "The dog is called Crumb now.")
    memory.checkpoint()
    memory.close()
    shutil.copy(backup, home.journal_file("ana"))
    assert texts(open_memory(notify=notices.append)) == [FACT]
    assert "restored or replaced" in notices[0]


@pytest.mark.usefixtures("stored")
def test_a_journal_restored_and_written_past_the_state_is_noticed(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    backup = home.root / "backup"
    shutil.copy(home.journal_file("ana"), backup)
    with open_memory() as memory:
        memory.remember("monday", "user", "The dog is called Crumb now.")
        memory.checkpoint()
    shutil.copy(backup, home.journal_file("ana"))
    with open_journal(home, "ana") as journal:
        for place in range(3):
            journal.append("monday", "user", f"The dog likes ball number {place}.")
    memory = open_memory(notify=notices.append)
    found = [item.text for item in memory.recall("What dog ball is called Crumb?", limit=10)]
    assert "restored or replaced" in notices[0]
    assert not any("Crumb" in text for text in found)
    assert sum("ball number" in text for text in found) == 3


@pytest.mark.usefixtures("stored")
def test_a_forgetting_that_failed_is_tried_again(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()

    def fail(self: InMemory, seqs: object) -> bool:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(InMemory, "forget", fail)
        with pytest.raises(OSError, match="no space"):
            forget(memory, [1])
    assert memory.recall("What is my dog called?") == []


@pytest.mark.usefixtures("stored")
def test_what_is_forgotten_after_a_restored_journal_is_forgotten(home: Home, open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", "something else")
    memory.close()
    backup = home.root / "backup"
    shutil.copy(home.journal_file("ana"), backup)
    memory = open_memory()
    forget(memory, [2])
    memory.close()
    shutil.move(backup, home.journal_file("ana"))
    memory = open_memory()
    forget(memory, [1])
    assert texts(memory) == []
    assert b"Biscuit" not in bytes_of(home.root)


@pytest.mark.usefixtures("stored")
def test_a_changed_manifest_is_rebuilt(home: Home, open_memory: OpenMemory, notices: list[str]) -> None:
    path = next(home.backend_folder("ana", "in_memory").glob("*/manifest.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"position": {"line": 3}}))
    assert texts(open_memory(notify=notices.append)) == [FACT]
    assert len(notices) == 1
