"""Operations of a store in random order, done to a store of LangGraph and to ``MemagentStore``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from langgraph.store.base import BaseStore, GetOp, Op, PutOp
from langgraph.store.memory import InMemoryStore

from memagent.agent.home import Home
from memagent.agent.journal.item_index import outdated_seqs
from memagent.langchain import MemagentStore, MemoryPool

ALL = 10_000
LABELS = st.sampled_from(["a", "b", "c d", 'é"', "a/b", "*"])
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
PREFIXES = st.lists(LABELS, max_size=2).map(tuple)
KEYS = st.sampled_from(["k", "l", "", "k\0", "ü", "K"])
TEXTS = st.one_of(
    st.sampled_from(["My dog is called Biscuit.", "tea", "10", "2024-05-01"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
)
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 2.0, True, "1"]))
FIELDS = st.sampled_from(["n", "text", "more", ""])
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "n": NUMBERS,
        "text": TEXTS,
        "more": st.recursive(
            LEAVES,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
            max_leaves=6,
        ),
        "": LEAVES,
    },
)
INDEXES = st.one_of(
    st.none(), st.just(False), st.lists(st.sampled_from(["text", "more[*]", "n"]), max_size=2)
)
OPERATORS = st.dictionaries(
    st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), NUMBERS, min_size=1, max_size=2
)
FILTERS = st.dictionaries(FIELDS, st.one_of(NUMBERS, OPERATORS, TEXTS, st.none()), max_size=2)
QUERIES = st.sampled_from([None, "", "What is my dog called?", "tea", "What do you know about me?"])

Address = tuple[tuple[str, ...], str]


def contents(items: list[Any]) -> dict[Address, str]:
    """Return the values of items by namespace and key, so that types differ too."""
    by_address = {(item.namespace, item.key): repr(item.value) for item in items}
    assert len(by_address) == len(items)
    return by_address


class Differential(RuleBasedStateMachine):
    """Does everything to a store of LangGraph and to ``MemagentStore``.

    Attributes:
        home: of all users; a test sets it.
        filters: what searches may ask for, as far as both stores mean the same by it.
    """

    home: Home
    filters = FILTERS
    num_users = 0
    num_operations = 0

    @initialize(purge_after=st.sampled_from([3, 1000]))
    def begin(self, purge_after: int) -> None:
        type(self).num_users += 1
        self.user = f"user {self.num_users}"
        self.purge_after = purge_after
        self.oracle = self.new_oracle()
        self.open()

    def new_oracle(self) -> BaseStore:
        """Return the store that is compared with, empty."""
        return InMemoryStore()

    def namespaces(self, **options: Any) -> list[tuple[str, ...]]:
        """Return the namespaces of the oracle. InMemoryStore also lists those that have no items any more."""
        without_empty = InMemoryStore()
        for item in self.oracle.search((), limit=ALL):
            without_empty.put(item.namespace, item.key, item.value)
        return without_empty.list_namespaces(**options)

    def open(self) -> None:
        self.pool = MemoryPool(self.home, backend="in_memory", settings={"abstain": "false"})
        self.store = MemagentStore(self.pool, self.user, purge_after=self.purge_after)

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            with self.pool.memory(self.user) as memory:
                assert memory.journal.audit() == []
            self.store.close()
            self.pool.close()

    @rule(namespace=NAMESPACES, key=KEYS, value=VALUES, index=INDEXES)
    def put(self, namespace: tuple[str, ...], key: str, value: dict[str, Any], index: Any) -> None:
        for store in (self.oracle, self.store):
            store.put(namespace, key, value, index)

    @rule(namespace=NAMESPACES, key=KEYS)
    def delete(self, namespace: tuple[str, ...], key: str) -> None:
        for store in (self.oracle, self.store):
            store.delete(namespace, key)

    @rule(namespace=NAMESPACES, key=KEYS)
    def get(self, namespace: tuple[str, ...], key: str) -> None:
        self.compare_gets(self.oracle.get(namespace, key), self.store.get(namespace, key))

    def compare_gets(self, expected: Any, item: Any) -> None:
        assert (item is None) is (expected is None)
        if item is not None:
            assert contents([item]) == contents([expected])
            assert item.created_at.tzinfo is not None

    @rule(
        operations=st.lists(
            st.one_of(
                st.builds(GetOp, NAMESPACES, KEYS),
                st.builds(PutOp, NAMESPACES, KEYS, st.none() | VALUES, INDEXES, ttl=st.none()),
            ),
            max_size=6,
        )
    )
    def batch(self, operations: list[Op]) -> None:
        type(self).num_operations += max(len(operations) - 1, 0)
        for expected, result in zip(self.oracle.batch(operations), self.store.batch(operations), strict=True):
            self.compare_gets(expected, result)

    @rule(
        prefix=PREFIXES,
        data=st.data(),
        query=QUERIES,
        limit=st.sampled_from([0, 1, 3, ALL]),
        offset=st.integers(0, 3),
    )
    def search(
        self, prefix: tuple[str, ...], data: st.DataObject, query: str | None, limit: int, offset: int
    ) -> None:
        conditions = data.draw(self.filters)
        try:
            expected = contents(self.oracle.search(prefix, filter=conditions, limit=ALL))
        except (TypeError, ValueError):  # an operator of order, and what has none
            return
        page = contents(self.store.search(prefix, filter=conditions, query=query, limit=limit, offset=offset))
        assert page.items() <= expected.items()
        assert len(page) == min(limit, max(len(expected) - offset, 0))
        if not query and limit and not offset:
            pages: dict[Address, str] = {}
            while more := self.store.search(prefix, filter=conditions, limit=limit, offset=len(pages)):
                assert not pages.keys() & contents(more).keys()
                pages |= contents(more)
            assert pages == expected

    @rule(
        prefix=PREFIXES,
        suffix=PREFIXES,
        depth=st.none() | st.integers(1, 3),
        limit=st.sampled_from([1, ALL]),
        offset=st.integers(0, 2),
    )
    def list_namespaces(
        self, prefix: tuple[str, ...], suffix: tuple[str, ...], depth: int | None, limit: int, offset: int
    ) -> None:
        options: dict[str, Any] = {
            "prefix": prefix,
            "suffix": suffix,
            "max_depth": depth,
            "limit": limit,
            "offset": offset,
        }
        assert self.store.list_namespaces(**options) == self.namespaces(**options)

    @rule()
    def purge(self) -> None:
        assert self.store.purge().remaining == ()
        with self.pool.memory(self.user) as memory:
            assert outdated_seqs(memory.journal) == set()
            assert memory.journal.count() == len(self.oracle.search((), limit=ALL))

    @rule()
    def reopen(self) -> None:
        self.pool.close()  # without closing the store, as if the process had ended
        self.open()

    @invariant()
    def count(self) -> None:
        type(self).num_operations += 1


@contextmanager
def home_in_memory() -> Iterator[Home]:
    """Make a home in a file system in memory: waiting for a disk would take most of the time."""
    memory_disk = Path("/dev/shm")  # noqa: S108 - as above
    with tempfile.TemporaryDirectory(dir=memory_disk if memory_disk.is_dir() else None) as folder:
        yield Home(Path(folder), Path(folder) / "models")


def check(machine: type[Differential], examples: int, steps: int) -> None:
    """Run so many random sequences of so many operations."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=[Phase.explicit, Phase.generate],
        ),
    )
