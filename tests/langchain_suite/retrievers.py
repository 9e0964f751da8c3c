"""LangChain's tests of retrievers, on every memory.

They ask for an exact number of documents, so the memories do not abstain here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from memagent.agent.home import Home
from memagent.agent.models.chat import ChatModel
from memagent.agent.models.fakes import EchoModel
from memagent.langchain import MemagentRetriever, MemoryPool
from tests.conftest import small_model

DATA = Path(__file__).parents[1] / "data"
TURNS = (
    "My dog is called Biscuit and lives by the sea.",
    "My sister Rita plays the cello in an orchestra.",
    "On Fridays I eat sardines with my dog at the harbour.",
    "The dog of my neighbour is called Rex.",
    "I moved to Porto in March, because of the sea.",
)


class MemoryRetriever(RetrieversIntegrationTests):
    """The tests of one backend.

    Attributes:
        backend: its name.
    """

    backend: ClassVar[str]
    pool: ClassVar[MemoryPool]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def filled_memory(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        """Fill a memory for all tests of the class."""
        folder = tmp_path_factory.mktemp(cls.backend)
        home = Home(folder / "home", folder / "models")
        cls.prepare(home)
        settings = {"abstain": "false"}
        with MemoryPool(home, backend=cls.backend, settings=settings, model=cls.model()) as cls.pool:
            with cls.pool.memory("ana") as memory:
                for turn in TURNS:
                    memory.remember("diary", "user", turn)
            yield

    @classmethod
    def prepare(cls, home: Home) -> None:
        """Put into a home what the backend derives from a model once."""

    @classmethod
    def model(cls) -> ChatModel:
        """Return the model that the memory acts in, where it needs one."""
        return EchoModel()

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return MemagentRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memory": self.pool, "user": "ana"}

    @property
    def retriever_query_example(self) -> str:
        return "What is the dog by the sea called?"


class WithSmallModel(MemoryRetriever):
    """The tests of a backend that works inside a language model: SmolLM2, whose calibration and autoencoder are at hand."""

    @classmethod
    def prepare(cls, home: Home) -> None:
        for name in ("calibrations", "autoencoders"):
            shutil.copytree(DATA / name, home.models / "derived", dirs_exist_ok=True)

    @classmethod
    def model(cls) -> ChatModel:
        model: Any = small_model()
        return model  # type: ignore[no-any-return]


class TestInMemory(MemoryRetriever):
    backend = "in_memory"


class TestBm25(MemoryRetriever):
    backend = "bm25"


class TestRag(MemoryRetriever):
    backend = "rag"


class TestTitans(MemoryRetriever):
    backend = "titans"


class TestMemo(MemoryRetriever):
    backend = "memo"


class TestRopeMap(WithSmallModel):
    backend = "rope_map"


class TestContextBank(WithSmallModel):
    backend = "context_bank"
