"""The tools remember, recall and forget in an agent."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver

from memagent.backends.errors import SettingError
from memagent.langchain import MemoryContext, MemoryPool, memory_tools
from tests.agent.integrations.langchain.agents import (
    FACT,
    QUESTION,
    PreparedChat,
    RecordingLender,
    agent_of,
    asay,
    call,
    journal_of,
    say,
    thread,
)

NOTE = "The user's dog is called Biscuit."


def agent_with_tools(memory: Any, *replies: str | AIMessage, **options: Any) -> Any:
    return create_agent(
        PreparedChat(replies=list(replies)),
        memory_tools(memory),
        context_schema=MemoryContext,
        checkpointer=InMemorySaver(),
        **options,
    )


def results_of(agent: Any, session: str) -> list[str]:
    """What the tools returned in a thread."""
    messages = agent.get_state(thread(session)).values["messages"]
    return [message.text for message in messages if isinstance(message, ToolMessage)]


def test_the_model_sees_names_descriptions_and_its_own_arguments_only(pool: MemoryPool) -> None:
    schemas = [convert_to_openai_tool(tool)["function"] for tool in memory_tools(pool)]
    assert {schema["name"]: list(schema["parameters"]["properties"]) for schema in schemas} == {
        "remember": ["fact"],
        "recall": ["query"],
        "forget": ["numbers"],
    }
    assert all(len(schema["description"]) > 100 for schema in schemas)


def test_a_model_remembers_recalls_and_forgets(pool: MemoryPool) -> None:
    agent = agent_with_tools(
        pool,
        call("remember", fact=NOTE),
        "I will.",
        call("recall", query=QUESTION),
        "Biscuit.",
        call("forget", numbers=[1]),
        "Done.",
    )
    say(agent, "Remember that my dog is Biscuit.", "monday")
    assert results_of(agent, "monday") == ["It is remembered."]
    assert journal_of(pool) == [("monday", "assistant", NOTE)]
    say(agent, QUESTION, "tuesday")
    assert "- 1 [20" in results_of(agent, "tuesday")[0]
    assert f"session monday, assistant] {NOTE}\n</memory>" in results_of(agent, "tuesday")[0]
    say(agent, "Forget my dog.", "tuesday")
    assert results_of(agent, "tuesday")[1] == "Forgotten: 1."
    assert journal_of(pool) == []


def test_forget_takes_only_numbers_that_recall_showed(pool: MemoryPool) -> None:
    agent = agent_with_tools(
        pool, call("forget", numbers=[1]), "I cannot.", call("forget", numbers=[]), "I cannot."
    )
    with pool.memory("ana") as memory:
        memory.remember("monday", "user", FACT)
    say(agent, "Forget my dog.")
    say(agent, "Forget it.")
    refused, empty = results_of(agent, "monday")
    assert refused == "Nothing was forgotten: `recall` has not shown 1 here. Call it first."
    assert empty.startswith("Nothing was forgotten")
    assert len(journal_of(pool)) == 1


def test_forget_tells_what_was_removed_and_what_was_gone_already(pool: MemoryPool) -> None:
    replies = ["Nice.", call("recall", query="dog"), call("forget", numbers=[1, 3]), "Done."]
    model = PreparedChat(replies=list(replies))
    agent = agent_of(pool, model, tools=memory_tools(pool), checkpointer=InMemorySaver())
    say(agent, FACT, "monday")
    with pool.memory("ana") as memory:
        memory.remember("friday", "user", "My dog sleeps.")
        original = memory.forget
        memory.forget = lambda seqs: (original([3]), original(seqs))[1]  # type: ignore[method-assign]
        say(agent, "Forget my dog.", "tuesday")
    assert results_of(agent, "tuesday")[1] == (
        "Forgotten: 1. Not there any more: 3. 1 replies that may repeat it were removed too."
    )
    assert ("tuesday", "assistant", "Done.") not in journal_of(pool)  # it may repeat what was forgotten


def test_nothing_known_is_told_as_such(pool: MemoryPool) -> None:
    agent = agent_with_tools(pool, call("recall", query=QUESTION), "I do not know.")
    say(agent, QUESTION)
    assert results_of(agent, "monday") == ["Nothing is remembered about that."]


def test_what_recall_showed_is_not_remembered_again(pool: MemoryPool) -> None:
    agent = agent_with_tools(
        pool, call("recall", query=QUESTION), call("remember", fact=f" {FACT.upper()}"), "Yes."
    )
    with pool.memory("ana") as memory:
        memory.remember("monday", "user", FACT)
    say(agent, QUESTION, "tuesday")
    assert results_of(agent, "tuesday")[1] == "It is remembered already, as number 1."
    assert len(journal_of(pool)) == 1


def test_a_reply_after_recall_is_not_recalled_and_goes_with_the_turn(pool: MemoryPool) -> None:
    model = PreparedChat(replies=["Nice.", call("recall", query=QUESTION), "It is Biscuit."])
    agent = agent_of(pool, model, tools=memory_tools(pool), limit=0)
    say(agent, FACT, "monday")
    say(agent, QUESTION, "tuesday")
    with pool.memory("ana") as memory:
        reply = list(memory.journal.turns())[-1]
        assert (reply.text, reply.derived, 1 in reply.recalled) == ("It is Biscuit.", True, True)


def test_a_remembered_fact_goes_with_the_message_that_it_comes_from(pool: MemoryPool) -> None:
    model = PreparedChat(replies=[call("remember", fact=NOTE), "I will."])
    say(agent_of(pool, model, tools=memory_tools(pool)), FACT)
    assert ("monday", "assistant", NOTE) in journal_of(pool)
    with pool.memory("ana") as memory:
        memory.forget([1])
    assert journal_of(pool) == []


def test_the_current_message_is_not_a_note(pool: MemoryPool) -> None:
    model = PreparedChat(replies=[call("recall", query=QUESTION), "I do not know."])
    agent = agent_of(pool, model, tools=memory_tools(pool), checkpointer=InMemorySaver())
    say(agent, QUESTION)
    assert results_of(agent, "monday") == ["Nothing is remembered about that."]


def test_an_unusable_fact_is_refused_in_words(pool: MemoryPool) -> None:
    agent = agent_with_tools(pool, call("remember", fact="  "), "Sorry.")
    say(agent, "Remember.")
    assert results_of(agent, "monday")[0].startswith("Nothing was stored. The message is empty")


def test_a_tool_needs_a_user(pool: MemoryPool) -> None:
    agent = agent_with_tools(pool, call("recall", query=QUESTION))
    with pytest.raises(SettingError, match="does not know whose it is"):
        agent.invoke({"messages": [("user", QUESTION)]}, thread("monday"))


def test_async_tools_leave_the_event_loop_free(pool: MemoryPool) -> None:
    lender = RecordingLender(pool)
    agent = agent_with_tools(lender, call("remember", fact=NOTE), call("recall", query=QUESTION), "Biscuit.")
    asyncio.run(asay(agent, QUESTION))
    assert "Biscuit" in results_of(agent, "monday")[1]
    assert len(lender.threads) == 2
    assert threading.main_thread() not in lender.threads
