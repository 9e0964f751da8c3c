"""Memories in LangChain and LangGraph: middleware, tools, store, retriever, chat model; see ``memagent.agent.integrations.langchain``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memagent.agent.integrations import langchain as _langchain

if TYPE_CHECKING:
    from memagent.agent.integrations.langchain import (
        ChatMemagent,
        MemagentRetriever,
        MemagentStore,
        MemoryContext,
        MemoryMiddleware,
        MemoryPool,
        memory_tools,
    )

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
    return getattr(_langchain, name)
