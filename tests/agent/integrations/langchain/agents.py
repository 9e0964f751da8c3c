"""What the tests of LangChain agents share: chat models with prepared replies, and shortcuts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from langchain.agents import create_agent
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import Field

from memagent.agent.memory import Memory
from memagent.langchain import MemoryContext, MemoryMiddleware, MemoryPool

FACT = "My dog is called Biscuit."
QUESTION = "What is my dog called?"

Reply = str | AIMessage | Exception | Callable[[Sequence[BaseMessage]], str]


def echo(messages: Sequence[BaseMessage]) -> str:
    """Reply with the last message."""
    return str(messages[-1].text)


class PreparedChat(BaseChatModel):
    """Gives prepared replies in order, the last one for ever, word by word where it streams; keeps each prompt."""

    replies: list[Any] = Field(default_factory=lambda: [echo])
    prompts: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "prepared"

    def bind_tools(self, tools: Any, **options: Any) -> Runnable[Any, AIMessage]:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next(messages))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._next(messages)
        for word in str(reply.content).split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))

    def _next(self, messages: list[BaseMessage]) -> AIMessage:
        self.prompts.append(list(messages))
        reply: Reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        if callable(reply):
            reply = reply(messages)
        return AIMessage(reply) if isinstance(reply, str) else reply


def call(tool: str, **arguments: Any) -> AIMessage:
    """Return a reply that calls a tool."""
    return AIMessage("", tool_calls=[ToolCall(name=tool, args=arguments, id=f"call-{tool}")])


class RecordingLender:
    """Lends memories of a pool, and notes the threads that borrow them."""

    def __init__(self, pool: MemoryPool) -> None:
        self.pool = pool
        self.threads: list[threading.Thread] = []

    @contextmanager
    def memory(self, user: str) -> Iterator[Memory]:
        self.threads.append(threading.current_thread())
        with self.pool.memory(user) as memory:
            yield memory


def agent_of(
    memory: Any, model: BaseChatModel, *, tools: Any = (), checkpointer: Any = None, **options: Any
) -> Any:
    """Return an agent with memory."""
    return create_agent(
        model,
        tools,
        middleware=[MemoryMiddleware(memory, **options)],
        context_schema=MemoryContext,
        checkpointer=checkpointer,
    )


def say(agent: Any, text: str, session: str = "monday", user: str = "ana") -> str:
    """Send a message in the thread of a session, and return the reply."""
    result = agent.invoke(*_run(text, session), context=MemoryContext(user))
    return str(result["messages"][-1].text)


async def asay(agent: Any, text: str, session: str = "monday", user: str = "ana") -> str:
    result = await agent.ainvoke(*_run(text, session), context=MemoryContext(user))
    return str(result["messages"][-1].text)


def _run(text: str, session: str) -> tuple[dict[str, Any], RunnableConfig]:
    return {"messages": [("user", text)]}, thread(session)


def thread(session: str) -> RunnableConfig:
    """Return the configuration of a run in the thread of a session."""
    return {"configurable": {"thread_id": session}}


def journal_of(pool: MemoryPool, user: str = "ana") -> list[tuple[str, str, str]]:
    """Return session, role and text of all turns."""
    with pool.memory(user) as memory:
        return [(turn.session, turn.role, turn.text) for turn in memory.journal.turns()]
