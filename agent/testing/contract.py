"""The contract of a backend as a class of tests. Subclass it to test a backend.

    from memagent.testing import BackendContract

    class TestMine(BackendContract):
        backend = "mine"

Most cases work with any model, so a backend that needs one gets a tiny random model. The cases that judge what is recalled
(``RecallCases``) use ``recall_model()``: return a real model there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.models.embedding import HashingEmbedder
from memagent.agent.testing.channel_cases import ChannelCases
from memagent.agent.testing.flag_cases import FlagCases
from memagent.agent.testing.recall_cases import RecallCases
from memagent.agent.testing.state_cases import StateCases
from memagent.agent.testing.tiny_model import tiny_model
from memagent.backends import registry
from memagent.backends.protocol import Embedder, LocalModel

OpenMemory = Callable[..., Memory]
"""Opens a memory: ``open_memory(user, backend, **options of Memory.open)``, all optional."""


class BackendContract(RecallCases, StateCases, FlagCases, ChannelCases):
    """All cases that an installed backend has to pass.

    Attributes:
        backend: the name of its entry point.
        settings: its hyper-parameters as text, by field name.
        recalls: False for a control that recalls nothing.
    """

    backend: ClassVar[str] = ""
    settings: ClassVar[Mapping[str, str]] = {}
    recalls: ClassVar[bool] = True

    def embedder(self) -> Embedder:
        """Return the embedder; by default one that hashes words and needs no weights."""
        return HashingEmbedder()

    def model(self) -> LocalModel:
        """Return the language model of cases that do not judge what is recalled; by default a tiny random one."""
        return tiny_model()

    def recall_model(self) -> LocalModel:
        """Return the language model of cases that judge what is recalled; by default ``model()``."""
        return self.model()

    @pytest.fixture(scope="session")
    def models_folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return a folder that all cases share, for what is derived from a model once."""
        return tmp_path_factory.mktemp("models")

    @pytest.fixture
    def home(self, tmp_path: Path, models_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
        """An empty home; the environment variables name it too."""
        home = Home(tmp_path / "home", models_folder)
        for name, value in (
            ("MEMAGENT_HOME", str(home.root)),
            ("MEMAGENT_MODELS", str(home.models)),
            ("MEMAGENT_EMBEDDER", HashingEmbedder.name),
        ):
            monkeypatch.setenv(name, value)
        for name in ("MEMAGENT_JOURNAL", "MEMAGENT_USER", "MEMAGENT_BACKEND", "MEMAGENT_MODEL"):
            monkeypatch.delenv(name, raising=False)
        return home

    @pytest.fixture
    def open_memory(self, home: Home) -> Iterator[OpenMemory]:
        """A function that opens the backend with ``model()``; its memories are closed after the case."""
        yield from self._opening(home, self.model)

    @pytest.fixture
    def open_to_recall(self, home: Home) -> Iterator[OpenMemory]:
        """The same with ``recall_model()``."""
        yield from self._opening(home, self.recall_model)

    def _opening(self, home: Home, make_model: Callable[[], LocalModel]) -> Iterator[OpenMemory]:
        opened: list[Memory] = []

        def open_(user: str = "ana", backend: str = "", **options: Any) -> Memory:
            options.setdefault("settings", self.settings)
            memory = Memory.open(
                home,
                user,
                backend or self.backend,
                make_embedder=self.embedder,
                make_model=make_model,
                **options,
            )
            opened.append(memory)
            return memory

        if not self.backend:
            pytest.skip("name a backend")
        if "local_model" in registry.get(self.backend).needs or registry.get(self.backend).model_channel:
            pytest.importorskip("transformers")
        yield open_
        for memory in opened:
            memory.close()
