"""Fixtures shared by all tests: a home of its own for each test, and memories without weights."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

# One core for each of several workers: with as many threads as cores in each, they are slower than one worker alone.
# Before torch and numpy are imported; the processes that tests start inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.models.embedding import HashingEmbedder
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.backends.protocol import LocalModel
from memagent.cli.options import use_embedder


@pytest.fixture(autouse=True, scope="session")
def utc() -> Iterator[None]:
    """Show times in UTC, wherever the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        if hasattr(time, "tzset"):  # Windows has none
            time.tzset()
        yield


@pytest.fixture(autouse=True, scope="session")
def no_settings_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no test read the settings file of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMAGENT_CONFIG", str(tmp_path_factory.mktemp("settings") / "config.toml"))
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home that the environment names too; embeddings by word hashing, so nothing is downloaded."""
    models = Home.from_environment().models
    monkeypatch.setenv("MEMAGENT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MEMAGENT_MODELS", str(models))
    monkeypatch.setenv("MEMAGENT_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("MEMAGENT_EMBEDDER", HashingEmbedder.name)
    for name in (
        "MEMAGENT_JOURNAL",
        "MEMAGENT_USER",
        "MEMAGENT_BACKEND",
        "MEMAGENT_MODEL",
        "MEMAGENT_CHANNEL",
    ):
        monkeypatch.delenv(name, raising=False)
    use_embedder(None)  # a command of an earlier test may have named one
    return Home(tmp_path / "home", models)


OpenMemory = Callable[..., Memory]


@cache
def small_model() -> LocalModel:
    """A real model of 135 million parameters, loaded once: for memories that work inside one."""
    return as_local(load_chat_model("smollm2-135m", Home.from_environment().models, notify=print))


@pytest.fixture
def open_memory(home: Home) -> Iterator[OpenMemory]:
    """Open memories as ``open_memory(user, backend, settings, **options)``; what stays open is closed at the end."""
    opened: list[Memory] = []

    def open_(
        user: str = "ana",
        backend: str = "in_memory",
        settings: dict[str, str] | None = None,
        **options: object,
    ) -> Memory:
        options.setdefault("make_model", small_model)
        memory = Memory.open(home, user, backend, settings, make_embedder=HashingEmbedder, **options)  # type: ignore[arg-type]
        opened.append(memory)
        return memory

    yield open_
    for memory in opened:
        memory.close()


@pytest.fixture
def no_deprecated_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail where transformers says that a deprecated name is used: it only logs that, once, and memagent keeps it quiet."""
    from transformers.utils import logging as transformers_logging

    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    transformers_logging.warning_once.cache_clear()
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "handlers", [Handler()])
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(level)
    assert [message for message in messages if "deprecated" in message] == []
