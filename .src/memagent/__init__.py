"""Long-term memory for chat agents: each memory is a backend behind one contract.

    >>> from memagent import Agent
    >>> with Agent.open(user="ana", backend="rag") as agent:  # doctest: +SKIP
    ...     agent.ask("My dog is called Biscuit.", session="monday")
    ...     print(agent.ask("What is my dog called?", session="tuesday").text)

``Agent`` is a chat model with a memory, ``Memory`` a memory alone, ``MemoryBackend`` what a backend implements.
``AsyncAgent`` is the agent of an event loop, ``AsyncAgents`` those of many users, over a ``MemoryPool``.
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
    from memagent.agent.engine.agent import Agent, Reply
    from memagent.agent.engine.async_agent import AsyncAgent, AsyncAgents
    from memagent.agent.engine.conversation import Conversation, Settings
    from memagent.agent.engine.events import Event, Recalled, Remembered, Token, TurnBegan, TurnEnded
    from memagent.agent.home import Home
    from memagent.agent.journal import Journal, NewAttachment, NewTurn
    from memagent.agent.memory import Forgotten, Memory
    from memagent.agent.memory.pool import MemoryPool
    from memagent.agent.settings import UserSettings
    from memagent.backends.errors import (
        BusyError,
        CheckpointError,
        InputError,
        JournalDamagedError,
        MemagentError,
        MissingExtraError,
        ModelError,
        NotFoundError,
        SettingError,
        StorageError,
    )
    from memagent.backends.picture import Column, Grid, Picture, Series, Table
    from memagent.backends.protocol import (
        Embedder,
        Injection,
        LocalModel,
        MemoryBackend,
        ModelMemory,
        Progress,
        Resources,
    )
    from memagent.backends.records import (
        Attachment,
        BackendStats,
        ConsolidationReport,
        Hit,
        Recollection,
        TrainingPlan,
        Turn,
        Use,
        WriteResult,
    )

_HOME = {
    "Agent": "memagent.agent.engine.agent",
    "AsyncAgent": "memagent.agent.engine.async_agent",
    "AsyncAgents": "memagent.agent.engine.async_agent",
    "Attachment": "memagent.backends.records",
    "BackendStats": "memagent.backends.records",
    "BusyError": "memagent.backends.errors",
    "CheckpointError": "memagent.backends.errors",
    "Column": "memagent.backends.picture",
    "ConsolidationReport": "memagent.backends.records",
    "Conversation": "memagent.agent.engine.conversation",
    "Embedder": "memagent.backends.protocol",
    "Event": "memagent.agent.engine.events",
    "Forgotten": "memagent.agent.memory",
    "Grid": "memagent.backends.picture",
    "Hit": "memagent.backends.records",
    "Home": "memagent.agent.home",
    "Injection": "memagent.backends.protocol",
    "InputError": "memagent.backends.errors",
    "Journal": "memagent.agent.journal",
    "JournalDamagedError": "memagent.backends.errors",
    "LocalModel": "memagent.backends.protocol",
    "MemagentError": "memagent.backends.errors",
    "Memory": "memagent.agent.memory",
    "MemoryBackend": "memagent.backends.protocol",
    "MemoryPool": "memagent.agent.memory.pool",
    "MissingExtraError": "memagent.backends.errors",
    "ModelError": "memagent.backends.errors",
    "ModelMemory": "memagent.backends.protocol",
    "NewAttachment": "memagent.agent.journal",
    "NewTurn": "memagent.agent.journal",
    "NotFoundError": "memagent.backends.errors",
    "Picture": "memagent.backends.picture",
    "Progress": "memagent.backends.protocol",
    "Recalled": "memagent.agent.engine.events",
    "Recollection": "memagent.backends.records",
    "Remembered": "memagent.agent.engine.events",
    "Reply": "memagent.agent.engine.agent",
    "Resources": "memagent.backends.protocol",
    "Series": "memagent.backends.picture",
    "SettingError": "memagent.backends.errors",
    "Settings": "memagent.agent.engine.conversation",
    "StorageError": "memagent.backends.errors",
    "Table": "memagent.backends.picture",
    "Token": "memagent.agent.engine.events",
    "TrainingPlan": "memagent.backends.records",
    "Turn": "memagent.backends.records",
    "TurnBegan": "memagent.agent.engine.events",
    "TurnEnded": "memagent.agent.engine.events",
    "Use": "memagent.backends.records",
    "UserSettings": "memagent.agent.settings",
    "WriteResult": "memagent.backends.records",
}

__all__ = [
    "Agent",
    "AsyncAgent",
    "AsyncAgents",
    "Attachment",
    "BackendStats",
    "BusyError",
    "CheckpointError",
    "Column",
    "ConsolidationReport",
    "Conversation",
    "Embedder",
    "Event",
    "Forgotten",
    "Grid",
    "Hit",
    "Home",
    "Injection",
    "InputError",
    "Journal",
    "JournalDamagedError",
    "LocalModel",
    "MemagentError",
    "Memory",
    "MemoryBackend",
    "MemoryPool",
    "MissingExtraError",
    "ModelError",
    "ModelMemory",
    "NewAttachment",
    "NewTurn",
    "NotFoundError",
    "Picture",
    "Progress",
    "Recalled",
    "Recollection",
    "Remembered",
    "Reply",
    "Resources",
    "Series",
    "SettingError",
    "Settings",
    "StorageError",
    "Table",
    "Token",
    "TrainingPlan",
    "Turn",
    "TurnBegan",
    "TurnEnded",
    "Use",
    "UserSettings",
    "WriteResult",
    "__version__",
]


# A library's notices are shown only where a program asks for them.
logging.getLogger("memagent").addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'memagent' has no attribute {name!r}")
