"""Stored states that cannot be used: damaged or foreign."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memagent.agent.home import Home
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
    checkpoint = store.inspect()
    assert checkpoint is not None

    def save_nonsense(folder: Path) -> None:
        (folder / "turns.json").write_text("{}[")

    store.write(
        save_nonsense,
        user=checkpoint.user,
        fingerprint=checkpoint.fingerprint,
        extent=checkpoint.extent,
    )
    assert texts(open_memory(notify=notices.append)) == [FACT]
    assert "turns.json cannot be read" in notices[0]


@pytest.mark.usefixtures("stored")
def test_a_state_of_another_fingerprint_is_rebuilt(
    open_memory: OpenMemory, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, Retrained)
    assert texts(open_memory(notify=notices.append)) == [FACT]
    assert "its format is 2, now it is 3" in notices[0]


@pytest.mark.usefixtures("stored")
def test_a_forgetting_that_failed_is_tried_again(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_memory()

    def fail(*_: object) -> bool:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(InMemory, "forget", fail)
        (remaining,) = memory.forget([1]).remaining
        assert (remaining.backend, "no space" in remaining.reason) == ("in_memory", True)
        assert [step.backend for step in memory.journal.unfinished()] == ["in_memory"]
    assert memory.recall("What is my dog called?") == []
    assert memory.journal.unfinished() == []


@pytest.mark.usefixtures("stored")
def test_a_changed_manifest_is_rebuilt(home: Home, open_memory: OpenMemory, notices: list[str]) -> None:
    path = next(home.backend_folder("ana", "in_memory").glob("*/manifest.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"position": {"line": 3}}))
    assert texts(open_memory(notify=notices.append)) == [FACT]
    assert len(notices) == 1
