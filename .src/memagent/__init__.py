"""Long-term memory for chat agents: each memory is a backend behind one contract.

    >>> from memagent import Agent
    >>> with Agent.open(user="ana", backend="rag") as agent:  # doctest: +SKIP
    ...     agent.ask("My dog is called Biscuit.", session="monday")
    ...     print(agent.ask("What is my dog called?", session="tuesday").text)

``Agent`` is a chat model with a memory, ``Memory`` a memory alone, ``MemoryBackend`` what a backend implements.
``memagent.testing`` has the contract's tests and models without weights.

Names are imported on first use, so that ``import memagent`` loads neither torch nor a database. Notices, such as that a
stored state is rebuilt, go to the logger ``memagent``.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from memagent.agent.engine.agent import Agent
    from memagent.agent.engine.conversation import Conversation
    from memagent.agent.home import Home
    from memagent.agent.journal import Journal
    from memagent.agent.memory import Memory
    from memagent.agent.settings import UserSettings
    from memagent.backends.errors import MemagentError
    from memagent.backends.protocol import MemoryBackend
    from memagent.backends.records import Recollection, Turn

logging.getLogger("memagent").addHandler(logging.NullHandler())

_HOME = {
    "Agent": "memagent.agent.engine.agent",
    "Conversation": "memagent.agent.engine.conversation",
    "Home": "memagent.agent.home",
    "Journal": "memagent.agent.journal",
    "MemagentError": "memagent.backends.errors",
    "Memory": "memagent.agent.memory",
    "MemoryBackend": "memagent.backends.protocol",
    "Recollection": "memagent.backends.records",
    "Turn": "memagent.backends.records",
    "UserSettings": "memagent.agent.settings",
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
    "UserSettings",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'memagent' has no attribute {name!r}")
