"""Threads in which async calls use memories, apart from those that an event loop shares among all of a program's calls.

An event loop has few threads (6 on 2 cores) for ``asyncio.to_thread``. Calls of one user, which wait while that user's memory
reads thousands of items, would take them all, and everybody would wait.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from memagent.agent.engine.fair_executor import FairExecutor

Result = TypeVar("Result")
_THREADS = 32
"""They mostly wait: for the disk, for another process, or for the cores."""


async def in_thread(user: str, function: Callable[[], Result]) -> Result:
    """Call a function in a thread. The calls of one user come one after the other, and users take turns.

    A cancelled call is not started; one that has begun runs to its end.

    Args:
        user: whose memory it uses.
        function: what is called, in a copy of the caller's context.
    """
    return await asyncio.wrap_future(_executor(os.getpid()).submit(user, function))


@lru_cache(maxsize=1)
def _executor(process: int) -> FairExecutor:
    """Return the threads of a process: a forked one has none of its parent's."""
    return FairExecutor(_THREADS, "memagent-langchain")
