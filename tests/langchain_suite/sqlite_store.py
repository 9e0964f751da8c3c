"""The store against LangGraph's SqliteStore, without an index: whatever is done, in any order, both answer the same.

Where SqliteStore differs, this store follows InMemoryStore, or is stricter:

| SqliteStore | MemagentStore | as InMemoryStore |
|---|---|---|
| an item without the field, or with None, does not fulfil ``$ne`` | fulfils it | yes |
| ``$gt`` and its like order numbers before texts, and read "2024-05-01" as 2024 | compare numbers with numbers, also in texts; else texts with texts | where that does not raise an error |
| lists and dictionaries are equal to nothing by ``$eq`` | are compared | yes |
| nested conditions raise an error; ``a.b`` is a path | nested conditions; ``a.b`` is the name of a field | yes |
| fields named with other characters than letters, digits, ``_``, ``.`` and ``-`` raise an error | any name | yes |
| the last stored first, to the second | the last stored first | no |
| an integer beyond 64 bits is an error; NaN becomes None | any integer; NaN is an error | any object |
| an expired item is returned until it is swept | never | no times to live |
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from typing import Any

import pytest
from hypothesis import strategies as st
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from memagent.agent.integrations.langchain.store_values import matches
from tests.agent.integrations.langchain.store_machine import ALL, TEXTS, Differential, check, home_in_memory

NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 2.0, True]))
ORDERS = st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), NUMBERS, min_size=1, max_size=2)
LEAVES = st.one_of(NUMBERS, TEXTS, st.none())
VALUES: list[Any] = [
    {"n": value}
    for value in (None, True, 0, 1, -3, 0.5, "1", "10", "2", "tea", "", "2024-05-01", [1], [], {"a": 1})
]
BOUNDS: list[Any] = [None, False, 0, 1, 0.5, "1", "10", "2", "tea", "2024-05-01", [1], [], {"a": 1}]


def sqlite_store() -> BaseStore:
    # Not in the environment in which types are checked.
    store: Any = import_module("langgraph.store.sqlite").SqliteStore(
        sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    )
    store.setup()
    return store  # type: ignore[no-any-return]


class DifferentialToSqlite(Differential):
    """Does everything to SqliteStore and to ``MemagentStore``."""

    filters = st.fixed_dictionaries(
        {},
        optional={
            "n": st.one_of(LEAVES, ORDERS, st.fixed_dictionaries({"$eq": LEAVES})),
            "text": st.one_of(LEAVES, st.just({"$ne": None})),
        },
    )

    def new_oracle(self) -> BaseStore:
        return sqlite_store()

    def namespaces(self, **options: Any) -> list[tuple[str, ...]]:
        return self.oracle.list_namespaces(**options)


@pytest.fixture
def machine() -> Iterator[type[Differential]]:
    with home_in_memory() as DifferentialToSqlite.home:
        DifferentialToSqlite.num_operations = 0
        yield DifferentialToSqlite


def test_it_answers_as_sqlite_store(machine: type[Differential]) -> None:
    while machine.num_operations < 1000:
        check(machine, examples=20, steps=25)


@pytest.mark.parametrize("operator", [None, "$eq", "$ne", "$gt", "$gte", "$lt", "$lte"])
def test_where_the_stores_filter_differently_it_does_as_in_memory_store(operator: str | None) -> None:
    stores: list[BaseStore] = [InMemoryStore(), sqlite_store()]
    values = [*VALUES, {}]
    for store, (number, value) in product(stores, enumerate(values)):
        store.put((str(number),), "key", value)
    for bound, (number, value) in product(BOUNDS, enumerate(values)):
        condition = {"n": bound if operator is None else {operator: bound}}
        in_memory, sqlite = (answer(store, number, condition) for store in stores)
        own = matches(value, condition)
        if in_memory is not None:
            assert own is in_memory, (value, condition)
        else:
            assert sqlite or not own, (value, condition)


def answer(store: BaseStore, number: int, condition: dict[str, Any]) -> bool | None:
    """Say whether an item fulfils a filter; None: the store raises an error."""
    try:
        return bool(store.search((str(number),), filter=condition, limit=ALL))
    except (TypeError, ValueError):
        return None
