"""Where notices go: to whoever is given, else to the logger ``memagent``."""

from __future__ import annotations

import logging

import pytest

from memagent.agent.home import Home
from tests.conftest import OpenMemory


def damage(home: Home, backend: str) -> None:
    """Damage the stored state of a backend."""
    for file in home.backend_folder("ana", backend).rglob("*.json"):
        file.write_text("damaged")


@pytest.fixture
def stored(home: Home, open_memory: OpenMemory) -> None:
    """A stored state that is damaged."""
    memory = open_memory()
    memory.remember("monday", "user", "My dog is called Biscuit.")
    memory.checkpoint()
    memory.close()
    damage(home, "in_memory")


@pytest.mark.usefixtures("stored")
def test_a_state_that_is_thrown_away_is_a_warning(
    open_memory: OpenMemory, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="memagent"):
        open_memory()
    assert [(record.name, record.levelname) for record in caplog.records] == [("memagent", "WARNING")]
    assert "The stored state of in_memory is not usable" in caplog.text


@pytest.mark.usefixtures("stored")
def test_who_gives_a_function_gets_the_notices_instead(
    open_memory: OpenMemory, caplog: pytest.LogCaptureFixture
) -> None:
    notices: list[str] = []
    open_memory(notify=notices.append)
    assert len(notices) == 1
    assert caplog.records == []


@pytest.mark.usefixtures("stored")
def test_nothing_is_printed_unasked(open_memory: OpenMemory, capfd: pytest.CaptureFixture[str]) -> None:
    open_memory()
    assert capfd.readouterr() == ("", "")


def test_the_logger_has_a_handler_that_does_nothing() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("memagent").handlers)
