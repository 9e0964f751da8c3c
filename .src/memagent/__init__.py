"""memagent: conversational agents whose long-term memory is a backend behind one contract.

    >>> from memagent import Agent
    >>> with Agent.open(user="ana", backend="rag", model="qwen2.5-coder-0.5b") as agent:  # doctest: +SKIP
    ...     agent.ask("My dog is called Biscuit.", session="monday")

Names are imported on first use, so that ``import memagent`` loads neither torch nor a database.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from memagent.agent import Agent, Conversation, Home, Journal, Memory
    from memagent.backends.errors import MemagentError
    from memagent.backends.protocol import MemoryBackend
    from memagent.backends.records import Recollection, Turn

_HOME = {
    "Agent": "memagent.agent",
    "Conversation": "memagent.agent",
    "Home": "memagent.agent",
    "Journal": "memagent.agent",
    "MemagentError": "memagent.backends.errors",
    "Memory": "memagent.agent",
    "MemoryBackend": "memagent.backends.protocol",
    "Recollection": "memagent.backends.records",
    "Turn": "memagent.backends.records",
}

__all__ = [
    "Agent",
    "Conversation",
    "Home",
    "Journal",
    "MemagentError",
    "Memory",
    "MemoryBackend",
    "Recollection",
    "Turn",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'memagent' has no attribute {name!r}")
