"""Async calls of one user, however many wait, delay nobody else's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig

from memagent.agent.memory import Memory
from memagent.langchain import MemagentRetriever, MemagentStore, MemoryContext, MemoryPool, memory_tools
from tests.agent.integrations.langchain.agents import (
    FACT,
    QUESTION,
    PreparedChat,
    agent_of,
    asay,
    call,
    journal_of,
)

NUM_CALLS = 60
"""More than an event loop has threads, 32 at most; and a store's own."""


class Blocked:
    """Lends memories of a pool; ana's are waited for."""

    def __init__(self, pool: MemoryPool) -> None:
        self.pool = pool
        self.proceed = threading.Event()

    @contextmanager
    def memory(self, user: str) -> Iterator[Memory]:
        if user == "ana":
            assert self.proceed.wait(20)
        with self.pool.memory(user) as memory:
            yield memory


async def store(lender: Any, user: str) -> Any:
    return await MemagentStore(lender, user).asearch((), query=QUESTION)


async def retrieve(lender: Any, user: str) -> Any:
    return await MemagentRetriever(memory=lender, user=user).ainvoke(QUESTION)


async def run_agent(lender: Any, user: str) -> Any:
    return await asay(agent_of(lender, PreparedChat(replies=["Nice."])), FACT, "monday", user)


async def run_tools(lender: Any, user: str) -> Any:
    from langchain.agents import create_agent

    model = PreparedChat(replies=[call("remember", fact=FACT), "I will."])
    agent: Any = create_agent(model, memory_tools(lender), context_schema=MemoryContext)
    config: RunnableConfig = {"configurable": {"thread_id": "monday"}}
    return await agent.ainvoke({"messages": [("user", "Remember it.")]}, config, context=MemoryContext(user))


@pytest.mark.parametrize("work", [store, retrieve, run_agent, run_tools])
def test_one_users_waiting_calls_delay_no_other_user(
    pool: MemoryPool, work: Callable[[Any, str], Awaitable[Any]]
) -> None:
    lender = Blocked(pool)

    async def run() -> float:
        await work(lender, "bob")  # what is loaded once
        waiting = [asyncio.ensure_future(work(lender, "ana")) for _ in range(NUM_CALLS)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        try:
            await asyncio.wait_for(work(lender, "bob"), 10)
            await asyncio.wait_for(asyncio.to_thread(str), 10)  # nor another part of the program
            return time.monotonic() - began
        finally:
            lender.proceed.set()
            await asyncio.gather(*waiting)

    assert asyncio.run(run()) < 10


def test_a_cancelled_call_that_waits_is_not_done(pool: MemoryPool) -> None:
    lender = Blocked(pool)

    async def run() -> None:
        calls = [
            asyncio.ensure_future(MemagentStore(lender, "ana").aput(("notes",), key, {"text": FACT}))
            for key in ("first", "second")
        ]
        await asyncio.sleep(0.05)
        for waiting in calls:
            waiting.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        lender.proceed.set()
        assert [item.key for item in await MemagentStore(lender, "ana").asearch(())] == ["first"]

    asyncio.run(run())
    assert len(journal_of(pool)) == 1
