"""Every built-in backend keeps the contract."""

from __future__ import annotations

from memagent.agent.testing import BackendContract
from memagent.backends.protocol import LocalModel
from tests.conftest import small_model


class TestNone(BackendContract):
    backend = "none"
    recalls = False


class TestInMemory(BackendContract):
    backend = "in_memory"


class TestBm25(BackendContract):
    backend = "bm25"


class TestRag(BackendContract):
    backend = "rag"


class TestTitans(BackendContract):
    backend = "titans"


class TestRopeMap(BackendContract):
    backend = "rope_map"

    def recall_model(self) -> LocalModel:
        return small_model()
