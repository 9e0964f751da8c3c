"""A server with the echo model, whose replies show what memory has brought into the prompt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memagent.agent.home import Home
from tests.agent.integrations.http.serving import Served, serving


@pytest.fixture
def served(home: Home) -> Iterator[Served]:
    with serving(home) as served:
        yield served
