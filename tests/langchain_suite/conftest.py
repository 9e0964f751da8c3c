"""A home of its own for each class of tests, without network and weights, but for SmolLM2 where a backend needs a model."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no test use or change the user's own memory."""
    folder = tmp_path_factory.mktemp("memagent")
    with pytest.MonkeyPatch.context() as patch:
        for name in [
            name for name in os.environ if name.startswith("MEMAGENT_") and name != "MEMAGENT_MODELS"
        ]:
            patch.delenv(name)
        patch.setenv("MEMAGENT_HOME", str(folder / "home"))
        patch.setenv("MEMAGENT_CONFIG", str(folder / "config.toml"))
        patch.setenv("MEMAGENT_EMBEDDER", "hashing")
        yield
