"""Which messages of a thread become a reply in the journal: those that answer the user's last message, once."""

from __future__ import annotations

from typing import Any

from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver

from memagent.langchain import MemoryContext, MemoryPool
from tests.agent.integrations.langchain.agents import PreparedChat, agent_of, journal_of, say, thread


def run(agent: Any, *messages: Any) -> None:
    agent.invoke({"messages": list(messages)}, thread("monday"), context=MemoryContext("ana"))


def texts(pool: MemoryPool) -> list[str]:
    return [text for _, _, text in journal_of(pool)]


def test_a_message_that_is_answered_again_gets_the_new_reply_only(pool: MemoryPool) -> None:
    agent = agent_of(pool, PreparedChat(replies=["Nice.", "Good."]), checkpointer=InMemorySaver())
    run(agent, HumanMessage("Hello.", id="1"))
    run(agent, HumanMessage("Hello!", id="1"))  # takes the place of the first in the thread, before the reply
    assert texts(pool) == ["Hello.", "Nice.", "Good."]


def test_a_finished_run_that_goes_on_stores_no_reply_twice(pool: MemoryPool) -> None:
    agent = agent_of(pool, PreparedChat(replies=["Nice.", "Good."]), checkpointer=InMemorySaver())
    run(agent, HumanMessage("Hello."))
    run(agent)
    assert texts(pool) == ["Hello.", "Nice.", "Good."]


def test_a_reply_from_a_checkpoint_before_it_is_stored_beside_the_first(pool: MemoryPool) -> None:
    agent = agent_of(pool, PreparedChat(replies=["Nice.", "Good."]), checkpointer=InMemorySaver())
    run(agent, HumanMessage("Hello."))
    history = agent.get_state_history(thread("monday"))
    before = next(state for state in history if state.next == ("model",))
    agent.invoke(None, before.config, context=MemoryContext("ana"))
    assert texts(pool) == ["Hello.", "Nice.", "Good."]
    with pool.memory("ana") as memory:
        assert [turn.in_view for turn in memory.journal.turns()] == [(), (1,), (1,)]


def test_replies_of_the_same_id_are_all_stored(pool: MemoryPool) -> None:
    """As a provider may give them, or a cache."""
    replies = [AIMessage(text, id="the same") for text in ("Nice.", "Good.")]
    agent = agent_of(pool, PreparedChat(replies=replies))
    say(agent, "Hello.")
    say(agent, "How are you?")
    assert texts(pool) == ["Hello.", "Nice.", "How are you?", "Good."]


def test_replies_out_of_a_cache_are_all_stored(pool: MemoryPool) -> None:
    agent = agent_of(pool, PreparedChat(replies=["Nice."], cache=InMemoryCache()))
    for _ in range(3):
        say(agent, "Hello.")
    assert texts(pool) == 3 * ["Hello.", "Nice."]


def test_messages_that_the_program_removes_from_a_thread_stay_in_the_journal(pool: MemoryPool) -> None:
    agent = agent_of(pool, PreparedChat(replies=["Nice.", "Good."]), checkpointer=InMemorySaver())
    run(agent, HumanMessage("Hello.", id="1"))
    run(agent, RemoveMessage(id="__remove_all__"), HumanMessage("How are you?"))
    assert texts(pool) == ["Hello.", "Nice.", "How are you?", "Good."]
    assert len(agent.get_state(thread("monday")).values["messages"]) == 2
