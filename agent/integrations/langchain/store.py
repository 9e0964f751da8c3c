"""A user's journal as a LangGraph store: items that survive processes, searched by any memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

from memagent.agent.home import Home
from memagent.agent.integrations.langchain.scope import MemoryLender, lender_of, user_of
from memagent.agent.integrations.langchain.store_search import namespaces, ranked, ranking_settings
from memagent.agent.integrations.langchain.store_values import WHOLE, item_text, matches
from memagent.agent.integrations.langchain.threads import in_thread
from memagent.agent.journal.item_index import read_entries, read_items
from memagent.agent.journal.items import NewItem, StoredItem, address_of
from memagent.agent.memory import Forgotten, Memory
from memagent.agent.memory.pool import MemoryPool
from memagent.backends.errors import InputError, MissingExtraError

try:
    from langgraph.store.base import (
        BaseStore,
        GetOp,
        InvalidNamespaceError,
        Item,
        ListNamespacesOp,
        Op,
        PutOp,
        Result,
        SearchItem,
        SearchOp,
        TTLConfig,
    )
except ModuleNotFoundError as error:
    raise MissingExtraError("MemagentStore", error.name or "langgraph", "langchain") from error


class MemagentStore(BaseStore):
    """A LangGraph store whose items are turns of one user's journal. No part of a namespace says whose they are.

        with MemagentStore.open("ana", backend="rag") as store:
            agent = create_agent(model, tools, store=store)
            store.put(("notes",), "dog", {"text": "My dog is called Biscuit."})
            store.search(("notes",), query="What is the dog called?")

    An overwritten, deleted or expired item is never returned again. Its turn is removed from the journal and from all
    memories by ``purge``: with the next forgetting, when the store is closed, or when the user's memory is opened next.
    Any thread may use it.

    Args:
        memory: a pool of memories, or one open memory; share the pool of ``MemoryMiddleware``.
        user: whose items; not needed with an open memory.
        fields: which fields memories search, as in LangGraph's ``IndexConfig``; ``$``: the whole value.
        ttl: times to live in minutes, and whether reading refreshes them. Expired items are never returned;
            ``sweep_interval_minutes`` and ``omit_expired`` are ignored.
        abstain: ``search`` with a query leaves out what memory does not find relevant; False: such items follow, with the
            score None.
        purge_after: so many outdated items are purged by the put that makes them so many.
        clock: returns the present, with time zone.

    Attributes:
        user: whose items it has.

    Raises:
        SettingError: a pool is given without a user.
    """

    supports_ttl = True

    def __init__(
        self,
        memory: Memory | MemoryLender,
        user: str | None = None,
        *,
        fields: Sequence[str] = (WHOLE,),
        ttl: TTLConfig | None = None,
        abstain: bool = False,
        purge_after: int = 1000,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.user = user_of(memory, user)
        self.ttl_config = ttl
        self._lender = lender_of(memory)
        self._own_pool: MemoryPool | None = None
        self._fields = tuple(fields)
        self._abstain = abstain
        self._purge_after = purge_after
        self._clock = clock
        self._guard = threading.Lock()  # of the counter
        self._num_outdated = 0

    @classmethod
    def open(
        cls,
        user: str,
        *,
        backend: str = "rag",
        settings: Mapping[str, str] | None = None,
        home: Home | None = None,
        pool_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Make a store with a pool of its own, which ``close`` closes. Its memory ranks all items: it does not abstain.

        Args:
            user: whose items.
            backend: name of the memory backend, or several names joined by ``+``.
            settings: the backend's hyper-parameters as text, by field name.
            home: the folders of the installation; by default those that the environment names.
            pool_options: further arguments of ``MemoryPool``.
            options: further arguments of ``MemagentStore``.

        Raises:
            MemagentError: the backend does not exist, or the environment names unusable folders.
        """
        settings = {**ranking_settings(backend), **(settings or {})}
        pool = MemoryPool(home, backend=backend, settings=settings, **(pool_options or {}))
        store = cls(pool, user, **options)
        store._own_pool = pool
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Purge what is outdated, and close the store's own pool. A pool that was given stays open.

        Raises:
            MemagentError: see ``purge``; the pool is closed.
        """
        try:
            with self._guard:
                is_outdated = self._num_outdated > 0
            if is_outdated or self.ttl_config:
                self.purge()
        finally:
            if self._own_pool is not None:
                self._own_pool.close()

    def purge(self) -> Forgotten:
        """Remove the turns of overwritten, deleted and expired items from the journal, from all memories and files.

        Returns:
            What was removed with them, and what remains to be done.

        Raises:
            MemagentError: the user's memory cannot be opened, or the journal cannot be changed.
        """
        with self._guard:
            self._num_outdated = 0
        with self._lender.memory(self.user) as memory:
            return memory.forget(())

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations. Reads see the state before the puts; of several puts of a key, the last counts.

        All puts are one commit. Raises as LangGraph's stores do, and:

        Raises:
            InputError: a value is no JSON, or too large; nothing was stored.
            BusyError: another process has the user's memory open.
            StorageError: the journal cannot be read or written; nothing was stored.
        """
        results: list[Result] = []
        puts: dict[tuple[tuple[str, ...], str], PutOp] = {}
        with self._lender.memory(self.user) as memory:
            now = self._clock()
            refreshed: set[int] = set()
            for op in ops:
                result: Result = None
                if isinstance(op, GetOp):
                    result = self._get(memory, op, now, refreshed)
                elif isinstance(op, SearchOp):
                    result = list(self._search(memory, op, now, refreshed))
                elif isinstance(op, ListNamespacesOp):
                    result = namespaces(memory.journal, op, now)
                elif isinstance(op, PutOp):
                    _check_put(op)
                    puts[op.namespace, op.key] = op
                else:
                    raise ValueError(f"Unknown operation type: {type(op)}")  # noqa: TRY004 - as LangGraph's stores
                results.append(result)
            if refreshed:
                memory.journal.refresh_items(refreshed, now)
            if puts:
                self._put(memory, list(puts.values()), now)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations in a thread; see ``batch``."""
        return await in_thread(self.user, partial(self.batch, list(ops)))

    def _get(self, memory: Memory, op: GetOp, now: datetime, refreshed: set[int]) -> Item | None:
        addresses = [address_of(op.namespace, op.key)]
        entries = read_entries(memory.journal, now, addresses=addresses)
        for stored in read_items(memory.journal, [entry.seq for entry in entries]):
            if op.refresh_ttl:
                refreshed.update(entry.seq for entry in entries if entry.expires)
            return Item(**_item_fields(stored))
        return None

    def _search(
        self, memory: Memory, op: SearchOp, now: datetime, refreshed: set[int]
    ) -> Iterator[SearchItem]:
        """Yield the items of a search: those that memory ranks, then the others, the last stored first."""
        page = slice(op.offset, op.offset + op.limit)
        options: dict[str, Any] = {"prefix": op.namespace_prefix}
        if not (op.filter or op.query) and min(op.limit, op.offset) >= 0:  # the database takes the page
            options |= {"limit": op.limit, "offset": op.offset}
            page = slice(None)
        entries = read_entries(memory.journal, now, **options)
        if op.filter:
            items = read_items(memory.journal, [entry.seq for entry in entries])
            kept = {item.seq for item in items if matches(item.value, op.filter)}
            entries = [entry for entry in entries if entry.seq in kept]
        scores: dict[int, float | None] = dict.fromkeys(entry.seq for entry in entries)
        if op.query:
            scores = ranked(memory, op.query, entries, op.offset + op.limit, abstain=self._abstain)
        chosen = list(scores)[page]
        if op.refresh_ttl:
            refreshed.update({entry.seq for entry in entries if entry.expires}.intersection(chosen))
        for stored in read_items(memory.journal, chosen):
            yield SearchItem(**_item_fields(stored), score=scores[stored.seq])

    def _put(self, memory: Memory, ops: Sequence[PutOp], now: datetime) -> None:
        """Store and delete items in one commit; purge if too many are outdated."""
        new = [
            NewItem(op.namespace, op.key, op.value, self._text(op), op.index, op.ttl)
            for op in ops
            if op.value is not None
        ]
        deleted = [(op.namespace, op.key) for op in ops if op.value is None]
        num_outdated = memory.journal.put_items(new, deleted, now)
        with self._guard:
            self._num_outdated += num_outdated
            too_many = self._num_outdated >= self._purge_after
        if too_many:
            self.purge()

    def _text(self, op: PutOp) -> str:
        """Return what memories search for an item; nothing if its value cannot be stored."""
        paths = self._fields if op.index is None else op.index or ()
        try:
            return item_text(op.value or {}, (WHOLE,) if op.index is False else paths)
        except (TypeError, ValueError, RecursionError):
            return ""  # put_items says what is wrong


def _item_fields(stored: StoredItem) -> dict[str, Any]:
    """Return the arguments of an ``Item``. An overwrite makes a new item, as in InMemoryStore, so both times are one."""
    return {
        "namespace": stored.namespace,
        "key": stored.key,
        "value": stored.value,
        "created_at": stored.created_at,
        "updated_at": stored.created_at,
    }


def _check_put(op: PutOp) -> None:
    """Refuse labels and fields that are no texts, which ``batch`` may be given directly."""
    if not op.namespace or {type(label) for label in op.namespace} != {str}:
        raise InvalidNamespaceError(
            f"Invalid namespace {op.namespace!r}: expected at least one label, all texts."
        )
    fields = op.index or ()
    if not isinstance(fields, list | tuple) or {type(field) for field in fields} - {str}:
        raise InputError(
            f"The item {op.key!r} in {op.namespace!r} has index={op.index!r}; expected a list of fields, or False if "
            "memory is not to search it. Nothing was stored."
        )
