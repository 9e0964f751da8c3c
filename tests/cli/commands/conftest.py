"""What the tests of commands share."""

from __future__ import annotations

import pytest

from memagent.agent.home import Home


@pytest.fixture
def echo_and_words(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a test says otherwise: the echo model and the in-memory backend."""
    monkeypatch.setenv("MEMAGENT_MODEL", "echo")
    monkeypatch.setenv("MEMAGENT_BACKEND", "in_memory")
