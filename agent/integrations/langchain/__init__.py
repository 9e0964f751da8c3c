"""Memories in LangChain and LangGraph: agent middleware, tools, store, retriever and chat model. Public as ``memagent.langchain``.

    from langchain.agents import create_agent
    from memagent.langchain import MemoryContext, MemoryMiddleware, MemoryPool

    with MemoryPool(backend="rag") as pool:
        agent = create_agent(model, middleware=[MemoryMiddleware(pool)], context_schema=MemoryContext)
        agent.invoke({"messages": [("user", "My dog is called Biscuit.")]}, context=MemoryContext("ana", "monday"))

The retriever and the chat model need langchain-core only. Middleware, tools and store need the extra ``langchain``. Names are
imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memagent.agent.integrations.langchain.chat_model import ChatMemagent
    from memagent.agent.integrations.langchain.middleware import MemoryMiddleware
    from memagent.agent.integrations.langchain.retriever import MemagentRetriever
    from memagent.agent.integrations.langchain.scope import MemoryContext
    from memagent.agent.integrations.langchain.store import MemagentStore
    from memagent.agent.integrations.langchain.tools import memory_tools
    from memagent.agent.memory.pool import MemoryPool

_HOME = {
    "ChatMemagent": "memagent.agent.integrations.langchain.chat_model",
    "MemagentRetriever": "memagent.agent.integrations.langchain.retriever",
    "MemagentStore": "memagent.agent.integrations.langchain.store",
    "MemoryContext": "memagent.agent.integrations.langchain.scope",
    "MemoryMiddleware": "memagent.agent.integrations.langchain.middleware",
    "MemoryPool": "memagent.agent.memory.pool",
    "memory_tools": "memagent.agent.integrations.langchain.tools",
}

__all__ = [
    "ChatMemagent",
    "MemagentRetriever",
    "MemagentStore",
    "MemoryContext",
    "MemoryMiddleware",
    "MemoryPool",
    "memory_tools",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
