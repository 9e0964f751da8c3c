"""Fixtures of the agent's tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def notices() -> list[str]:
    return []
