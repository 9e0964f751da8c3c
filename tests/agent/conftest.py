"""Fixtures of the agent's tests."""

from __future__ import annotations

import pytest

from memagent.agent.memory import Memory
from tests.conftest import OpenMemory


@pytest.fixture
def memory(open_memory: OpenMemory) -> Memory:
    return open_memory()


@pytest.fixture
def notices() -> list[str]:
    return []
