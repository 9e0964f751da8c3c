"""Memories for servers of programs, in threads; also while another process has a memory open.

A person may have a chat in a terminal and two MCP servers of desktop programs, all with the same memory. One process at a time
has it open for writing. The others append to the journal and read from it, which needs no lock; search in a reader of their
own; and forget as the command line does: the process that has the memory open follows at its next call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from memagent.agent.engine.fair_executor import FairExecutor
from memagent.agent.integrations.access import operations
from memagent.agent.integrations.access.records import (
    AddResult,
    DeleteResult,
    ListResult,
    MemoryRecord,
    SearchResult,
    UpdateResult,
)
from memagent.agent.journal import Journal
from memagent.agent.memory import Memory, open_journal
from memagent.agent.memory.composition import open_memory
from memagent.agent.memory.forgetting import OpenBeside, correct, forget
from memagent.agent.memory.lock import BackendLock
from memagent.agent.memory.pool import MemoryPool
from memagent.backends.errors import BusyError, CheckpointError, ModelError

Result = TypeVar("Result")
_THREADS = 32
"""They mostly wait: for the disk, for another process, or for the cores."""


class MemoryAccess:
    """Calls operations with the memory or the journal of a user, in threads where users take turns.

    Args:
        pool: the memories; the caller closes it.
    """

    def __init__(self, pool: MemoryPool) -> None:
        self._pool = pool
        self._executor = FairExecutor(_THREADS, "memagent-access")

    async def add(self, user: str, text: str, session: str) -> AddResult:
        """Store a text; see ``operations.add``."""

        def add() -> AddResult:
            try:
                with self._pool.memory(user) as memory:
                    return operations.add(memory, text, session)
            except BusyError:
                return self._append(
                    user, text, session, "Another program has the memory open and reads it next."
                )
            except (CheckpointError, ModelError) as error:
                return self._append(user, text, session, f"It can be searched once this is solved: {error}")

        return await self._call(user, add)

    async def search(self, user: str, query: str, limit: int) -> SearchResult:
        """Return what is relevant to a query; see ``operations.search``."""

        def search() -> SearchResult:
            try:
                with self._pool.memory(user) as memory:
                    return operations.search(memory, query, limit)
            except BusyError:
                with self._pool.reader(user) as reader:
                    return operations.search(reader, query, limit)

        return await self._call(user, search)

    async def get(self, user: str, seq: int) -> MemoryRecord:
        """Return one memory; see ``operations.require``."""

        def get() -> MemoryRecord:
            with self._journal(user) as journal:
                return MemoryRecord.of(operations.require(journal, seq))

        return await self._call(user, get)

    async def list_page(self, user: str, session: str | None, limit: int, cursor: str | None) -> ListResult:
        """Return a page of the memories, newest first; see ``operations.list_page``."""

        def list_page() -> ListResult:
            with self._journal(user) as journal:
                return operations.list_page(journal, session, limit, cursor)

        return await self._call(user, list_page)

    async def update(self, user: str, seq: int, text: str) -> UpdateResult:
        """Replace the text of a memory, everywhere; see ``forgetting.correct``."""

        def update() -> UpdateResult:
            try:
                with self._pool.memory(user) as memory:
                    operations.require(memory.journal, seq)
                    return operations.update_result(seq, *memory.correct(seq, text))
            except BusyError:
                with self._journal(user) as journal:
                    operations.require(journal, seq)
                    changed = correct(self._pool.home, journal, seq, text, self._open_beside(user))
                return operations.update_result(seq, *changed)

        return await self._call(user, update)

    async def delete(self, user: str, seq: int) -> DeleteResult:
        """Delete a memory, and replies that may repeat it, everywhere; see ``forgetting.forget``."""

        def delete() -> DeleteResult:
            try:
                with self._pool.memory(user) as memory:
                    operations.require(memory.journal, seq)
                    return operations.delete_result(seq, memory.forget([seq]))
            except BusyError:
                with self._journal(user) as journal:
                    operations.require(journal, seq)
                    forgotten = forget(self._pool.home, journal, [seq], self._open_beside(user))
                return operations.delete_result(seq, forgotten)

        return await self._call(user, delete)

    async def close(self) -> None:
        """Refuse calls that wait, and let those that have begun run to their end."""
        await self._executor.close()

    async def _call(self, user: str, function: Callable[[], Result]) -> Result:
        """Call a function in a thread when it is the user's turn."""
        return await asyncio.wrap_future(self._executor.submit(user, function))

    def _append(self, user: str, text: str, session: str, note: str) -> AddResult:
        """Store a text in the journal alone: the memory reads it when it is next used."""
        with self._journal(user) as journal:
            turn = journal.append(session, "user", text)
        return AddResult(id=turn.seq, session=turn.session, note=f"It is stored. {note}")

    def _journal(self, user: str) -> Journal:
        return open_journal(self._pool.home, user)

    def _open_beside(self, user: str) -> OpenBeside:
        """Return what opens a user's stored memories as they are, so that they can forget."""

        def open_beside(backend: str, stored: Mapping[str, str], lock: BackendLock) -> Memory:
            return open_memory(
                self._pool.home,
                self._pool.models,
                user,
                backend,
                stored,
                model=self._pool.model,
                lock=lock,
                strict=True,
                follow=False,
            )

        return open_beside
