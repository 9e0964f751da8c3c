"""A memory as a retriever."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from memagent.backends.errors import SettingError
from memagent.langchain import MemagentRetriever, MemoryPool
from tests.agent.integrations.langchain.agents import FACT, QUESTION, RecordingLender
from tests.conftest import OpenMemory

WHEN = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def filled_pool(pool: MemoryPool) -> MemoryPool:
    with pool.memory("ana") as memory:
        memory.remember("monday", "user", FACT, speaker="Ana", created_at=WHEN)
        memory.remember("monday", "user", "The dog is three years old.")
        memory.remember("tuesday", "user", "My dog sleeps.")
    return pool


def test_documents_have_text_provenance_and_score(filled_pool: MemoryPool) -> None:
    documents = MemagentRetriever(memory=filled_pool, user="ana").invoke("What is my dog called Biscuit?")
    assert documents[0].page_content == FACT
    assert documents[0].id == "1"
    metadata = documents[0].metadata
    assert metadata.pop("score") > 0
    assert metadata.pop("why")
    assert metadata == {
        "seqs": [1],
        "session": "monday",
        "role": "user",
        "speaker": "Ana",
        "created_at": "2024-05-01T12:00:00+00:00",
        "regenerated": False,
        "superseded_by": None,
        "superseded_at": None,
    }


def test_k_limits_the_documents(filled_pool: MemoryPool) -> None:
    retriever = MemagentRetriever(memory=filled_pool, user="ana", k=2)
    assert len(retriever.invoke("dog")) == 2
    assert len(retriever.invoke("dog", k=1)) == 1
    assert retriever.invoke("parrot") == []


def test_an_open_memory_knows_its_user(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    assert MemagentRetriever(memory=memory).invoke(QUESTION)[0].page_content == FACT
    with pytest.raises(SettingError, match="not of 'bob'"):
        MemagentRetriever(memory=memory, user="bob").invoke(QUESTION)


def test_a_pool_needs_a_user(filled_pool: MemoryPool) -> None:
    with pytest.raises(SettingError, match="user=NAME"):
        MemagentRetriever(memory=filled_pool).invoke(QUESTION)
    assert MemagentRetriever(memory=filled_pool, user="bob").invoke(QUESTION) == []


def test_it_works_in_a_chain_and_leaves_the_event_loop_free(filled_pool: MemoryPool) -> None:
    lender = RecordingLender(filled_pool)

    def join(documents: list[Document]) -> str:
        return "; ".join(document.page_content for document in documents)

    chain = MemagentRetriever(memory=lender, user="ana", k=1) | RunnableLambda(join)
    assert asyncio.run(chain.ainvoke("Biscuit")) == FACT
    assert threading.main_thread() not in lender.threads


def test_its_description_holds_no_memory(filled_pool: MemoryPool) -> None:
    retriever = MemagentRetriever(memory=filled_pool, user="ana")
    assert "memory" not in retriever.model_dump()
    assert "MemoryPool" not in repr(retriever)
