"""The contract that every backend keeps, as a class of tests to subclass.

    from memagent.testing import BackendContract

    class TestMine(BackendContract):
        backend = "mine"

Most cases need a model only to run, so a backend that works inside one is given a tiny random model. Where a recollection
is judged (``RecallCases``), it is given ``recall_model()``: return a real one there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.models.embedding import HashingEmbedder
from memagent.agent.testing.cases_of_channel import ChannelCases
from memagent.agent.testing.cases_of_contract import FlagCases
from memagent.agent.testing.cases_of_recall import RecallCases
from memagent.agent.testing.cases_of_state import StateCases
from memagent.agent.testing.tiny_model import tiny_model
from memagent.backends import registry
from memagent.backends.protocol import Embedder, LocalModel

OpenMemory = Callable[..., Memory]


class BackendContract(RecallCases, StateCases, FlagCases, ChannelCases):
    """Every case that one installed backend has to pass.

    Attributes:
        backend: the name of its entry point.
        settings: what to open it with.
        recalls: False for a control that remembers nothing.
    """

    backend: ClassVar[str] = ""
    settings: ClassVar[Mapping[str, str]] = {}
    recalls: ClassVar[bool] = True

    def embedder(self) -> Embedder:
        """Return what texts are embedded with; word hashing by default, which needs no weights."""
        return HashingEmbedder()

    def model(self) -> LocalModel:
        """Return the language model of cases that judge no answer; a tiny random one by default."""
        return tiny_model()

    def recall_model(self) -> LocalModel:
        """Return the language model of cases that judge what is recalled; by default ``model()``."""
        return self.model()

    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
        """An empty home that the environment names too."""
        home = Home(tmp_path / "home", tmp_path / "models")
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
        """Open the backend as ``open_memory(user, **options of Memory.open)``; what stays open is closed at the end."""
        yield from self._opening(home, self.model)

    @pytest.fixture
    def open_to_recall(self, home: Home) -> Iterator[OpenMemory]:
        """The same with the model of ``recall_model()``."""
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
