"""When a model fails, a stream is abandoned, a task is cancelled, or two agents share a user: nothing is lost or stored twice."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from memagent.agent.home import Home
from memagent.backends.errors import BusyError, StorageError
from memagent.langchain import MemoryContext, MemoryPool, memory_tools
from tests.agent.integrations.langchain.agents import (
    FACT,
    QUESTION,
    PreparedChat,
    agent_of,
    asay,
    call,
    echo,
    journal_of,
    say,
    thread,
)

MESSAGE = ("monday", "user", FACT)


def test_a_message_is_stored_though_the_model_fails_and_is_recalled(pool: MemoryPool) -> None:
    agent = agent_of(pool, PreparedChat(replies=[RuntimeError("the provider is down"), echo]))
    with pytest.raises(RuntimeError, match="provider"):
        say(agent, FACT, "monday")
    assert journal_of(pool) == [MESSAGE]
    assert FACT in say(agent, QUESTION, "tuesday")


def test_a_message_is_stored_though_recall_fails(pool: MemoryPool, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_of(pool, PreparedChat())
    with pool.memory("ana") as memory:
        monkeypatch.setattr(memory, "recall", _broken)
        with pytest.raises(RuntimeError, match="it broke"):
            say(agent, FACT)
    assert journal_of(pool) == [MESSAGE]


def test_a_message_is_stored_though_the_stream_is_abandoned(pool: MemoryPool) -> None:
    agent = agent_of(pool, PreparedChat(replies=["a reply of several words"]))
    chunks = agent.stream(
        {"messages": [("user", FACT)]}, thread("monday"), context=MemoryContext("ana"), stream_mode="messages"
    )
    assert next(chunks)[0].text
    chunks.close()
    assert journal_of(pool) == [MESSAGE]
    say(agent, QUESTION, "tuesday")
    assert len(journal_of(pool)) == 3


def test_a_message_is_stored_though_the_task_is_cancelled(pool: MemoryPool) -> None:
    began, proceed = threading.Event(), threading.Event()

    def wait(messages: Any) -> str:
        began.set()
        proceed.wait(10)
        return "too late"

    agent = agent_of(pool, PreparedChat(replies=[wait, echo]))

    async def cancelled() -> None:
        task = asyncio.create_task(asay(agent, FACT))
        await asyncio.to_thread(began.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        proceed.set()

    asyncio.run(cancelled())
    assert journal_of(pool) == [MESSAGE]
    assert FACT in say(agent, QUESTION, "tuesday")


def test_a_failed_thread_goes_on_and_nothing_is_stored_twice(pool: MemoryPool) -> None:
    agent = agent_of(
        pool, PreparedChat(replies=[RuntimeError("down"), "Nice."]), checkpointer=InMemorySaver()
    )
    with pytest.raises(RuntimeError, match="down"):
        say(agent, FACT)
    agent.invoke(None, thread("monday"), context=MemoryContext("ana"))
    say(agent, "She is three.")
    assert [text for _, _, text in journal_of(pool)] == [FACT, "Nice.", "She is three.", "Nice."]


def test_what_was_forgotten_during_a_failed_run_does_not_come_back(pool: MemoryPool) -> None:
    replies = ["Nice.", call("recall", query=QUESTION), RuntimeError("down"), "Nothing."]
    model = PreparedChat(replies=replies)
    agent = agent_of(pool, model, tools=memory_tools(pool), checkpointer=InMemorySaver())
    say(agent, FACT, "monday")
    with pytest.raises(RuntimeError, match="down"):
        say(agent, QUESTION, "tuesday")
    with pool.memory("ana") as memory:
        memory.forget([1])
    say(agent, "Hello?", "tuesday")
    assert [message.text for message in model.prompts[-1][1:]] == [QUESTION, "Hello?"]
    assert journal_of(pool) == [
        ("tuesday", "user", QUESTION),
        ("tuesday", "user", "Hello?"),
        ("tuesday", "assistant", "Nothing."),
    ]


def test_what_was_forgotten_before_a_run_goes_on_does_not_come_back(pool: MemoryPool) -> None:
    model = PreparedChat(replies=["Biscuit is nice.", RuntimeError("down"), "Nothing."])
    agent = agent_of(pool, model, checkpointer=InMemorySaver())
    say(agent, FACT)
    with pytest.raises(RuntimeError, match="down"):
        say(agent, "Hello?")
    with pool.memory("ana") as memory:
        memory.forget([1])
    agent.invoke(None, thread("monday"), context=MemoryContext("ana"))
    assert [message.text for message in model.prompts[-1][1:]] == ["Hello?"]
    texts = [message.text for message in agent.get_state(thread("monday")).values["messages"]]
    assert texts == ["Hello?", "Nothing."]
    assert [text for _, _, text in journal_of(pool)] == texts


def test_a_reply_that_cannot_be_stored_fails_and_the_message_is_there(
    pool: MemoryPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_of(pool, PreparedChat(replies=["Nice."]))
    with pool.memory("ana") as memory:
        monkeypatch.setattr(memory.journal, "append_reply", _full)
        with pytest.raises(StorageError, match="disk is full"):
            say(agent, FACT)
        monkeypatch.undo()
    assert journal_of(pool) == [MESSAGE]


def test_two_agents_on_one_user_store_all_turns_once(pool: MemoryPool) -> None:
    agents = [agent_of(pool, PreparedChat(replies=[f"Reply of {name}."])) for name in ("one", "two")]

    def talk(number: int) -> None:
        for count in range(5):
            say(agents[number], f"Message {count} to {number}.", f"session {number}")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(talk, range(2)))
    turns = journal_of(pool)
    assert len(turns) == 20
    for number, name in enumerate(("one", "two")):
        own = [text for session, _, text in turns if session == f"session {number}"]
        assert own[::2] == [f"Message {count} to {number}." for count in range(5)]
        assert set(own[1::2]) == {f"Reply of {name}."}


def test_one_message_in_two_runs_at_once_is_stored_once(pool: MemoryPool) -> None:
    agent = agent_of(pool, PreparedChat(replies=["Nice."]))
    message = {"messages": [{"role": "user", "content": FACT, "id": "the same"}]}

    def run(_: int) -> None:
        agent.invoke(message, thread("monday"), context=MemoryContext("ana"))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, range(8)))
    assert journal_of(pool).count(MESSAGE) == 1


def test_another_process_that_has_the_memory_is_named(home: Home, pool: MemoryPool) -> None:
    with MemoryPool(home, backend="in_memory", wait_seconds=0.1) as other:
        say(agent_of(pool, PreparedChat(replies=["Nice."])), FACT)
        with pytest.raises(BusyError, match="ana"):
            say(agent_of(other, PreparedChat()), QUESTION)
        with pytest.raises(BusyError, match="ana"):
            asyncio.run(asay(agent_of(other, PreparedChat()), QUESTION))
    assert len(journal_of(pool)) == 2


def test_ten_threads_of_ten_users_get_their_own_memory(home: Home) -> None:
    users = [f"user {number}" for number in range(10)]
    with MemoryPool(home, backend="bm25", max_open=4) as pool:
        agent = agent_of(pool, PreparedChat(replies=[echo]))

        def talk(user: str) -> str:
            say(agent, f"My dog is called Rex of {user}.", "monday", user)
            for number in range(3):
                say(agent, f"Hello number {number}.", "monday", user)
            return say(agent, QUESTION, "tuesday", user)

        with ThreadPoolExecutor(10) as threads:
            replies = dict(zip(users, threads.map(talk, users), strict=True))
        for user, reply in replies.items():
            assert [other for other in users if f"Rex of {other}." in reply] == [user]
            texts = [text for _, _, text in journal_of(pool, user)]
            assert len(texts) == 10
            assert not [
                text for text in texts for other in users if other != user and f"Rex of {other}." in text
            ]


def test_ten_tasks_of_ten_users_get_their_own_memory(home: Home) -> None:
    users = [f"user {number}" for number in range(10)]

    async def talk(agent: Any, user: str) -> str:
        await asay(agent, f"My dog is called Rex of {user}.", "monday", user)
        return await asay(agent, QUESTION, "tuesday", user)

    async def run(agent: Any) -> list[str]:
        return await asyncio.gather(*(talk(agent, user) for user in users))

    with MemoryPool(home, backend="bm25") as pool:
        replies = asyncio.run(run(agent_of(pool, PreparedChat(replies=[echo]))))
    for user, reply in zip(users, replies, strict=True):
        assert [other for other in users if f"Rex of {other}." in reply] == [user]


def _broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("it broke")


def _full(*_: Any, **__: Any) -> Any:
    raise StorageError("the disk is full")
