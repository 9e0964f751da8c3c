"""Whose memory an agent uses, and which session its thread is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from memagent.agent.memory import Memory
from memagent.backends.errors import SettingError


@dataclass(frozen=True, slots=True)
class MemoryContext:
    """The context of one run: ``create_agent(..., context_schema=MemoryContext)``, ``agent.invoke(..., context=...)``.

    Attributes:
        user: whose memory it is.
        session: name of the session; None: the thread's id.
    """

    user: str
    session: str | None = None


class MemoryLender(Protocol):
    """What lends the open memories of users: a ``MemoryPool``."""

    def memory(self, user: str) -> AbstractContextManager[Memory]:
        """Return a context manager that lends a user's memory.

        Args:
            user: name of the user.

        Raises:
            MemagentError: the memory cannot be opened; ``BusyError`` if another process has it open.
        """
        ...


@dataclass(frozen=True, slots=True)
class Scope:
    """The user and the session of one run."""

    user: str
    session: str


UserOf = str | Callable[[Any], str] | None
"""A user's name; a function that returns it for a runtime; or None: the context has it."""


def lender_of(memory: Memory | MemoryLender) -> MemoryLender:
    """Return what lends memories, for a pool or for one open memory."""
    return _OneMemory(memory) if isinstance(memory, Memory) else memory


def user_of(memory: Memory | MemoryLender, user: str | None) -> str:
    """Return the user of a retriever or chat model.

    Args:
        memory: an open memory, which has a user, or a pool.
        user: name of the user; None: the user of the open memory.

    Raises:
        SettingError: a pool is given without a user.
    """
    if user is not None:
        return user
    if isinstance(memory, Memory):
        return memory.user
    raise SettingError("A pool has the memories of many users: say whose memory it is with user=NAME.")


def scope_of(runtime: Any, user: UserOf, session: str | None) -> Scope:
    """Return the user and the session of a run.

    Args:
        runtime: a ``Runtime`` or ``ToolRuntime`` of LangGraph.
        user: as given where middleware or tools were made.
        session: the session as given there; None: the context's, or else the thread's id.

    Raises:
        SettingError: neither says who the user is, or which session it is.
    """
    name = user(runtime) if callable(user) else user or _attribute(runtime.context, "user")
    if not name:
        raise SettingError(
            "Memory does not know whose it is. Make the agent with context_schema=MemoryContext and pass "
            "context=MemoryContext(user=NAME) with each run, or make the middleware or the tools with user=NAME."
        )
    thread = runtime.execution_info.thread_id if runtime.execution_info else None
    session = session or _attribute(runtime.context, "session") or thread
    if not session:
        raise SettingError(
            "Memory does not know which session this is. Pass "
            "config={'configurable': {'thread_id': ID}} with each run, or context=MemoryContext(user=NAME, session=NAME)."
        )
    return Scope(name, str(session))


def _attribute(context: Any, name: str) -> str | None:
    """Return a text of the context. A context of the program's own may have another object by that name."""
    value = context.get(name) if isinstance(context, dict) else getattr(context, name, None)
    return value if isinstance(value, str) else None


@dataclass(frozen=True)
class _OneMemory:
    """Lends one open memory, to its own user."""

    open_memory: Memory

    @contextmanager
    def memory(self, user: str) -> Iterator[Memory]:
        if user != self.open_memory.user:
            raise SettingError(
                f"This is the memory of user {self.open_memory.user!r}, not of {user!r}; a MemoryPool has all users'."
            )
        yield self.open_memory
