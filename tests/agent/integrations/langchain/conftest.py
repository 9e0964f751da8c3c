"""Fixtures of the tests of LangChain agents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memagent.agent.home import Home
from memagent.langchain import MemoryPool


@pytest.fixture
def pool(home: Home) -> Iterator[MemoryPool]:
    with MemoryPool(home, backend="in_memory") as pool:
        yield pool
