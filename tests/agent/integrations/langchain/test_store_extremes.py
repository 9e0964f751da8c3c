"""What a program may give a store by mistake: numbers beyond a database's, fields that are none, texts of any length."""

from __future__ import annotations

import time
from typing import Any

import pytest
from langgraph.store.base import GetOp, PutOp, SearchOp

from memagent.backends.errors import InputError
from memagent.langchain import MemagentStore, MemoryPool
from tests.agent.integrations.langchain.agents import FACT, QUESTION

NOTES = ("notes",)
HUGE = 10**20


@pytest.fixture(params=["in_memory", "bm25"])
def store(request: pytest.FixtureRequest, pool: MemoryPool) -> Any:
    with MemoryPool(pool.home, backend=request.param, settings={"abstain": "false"}) as own_pool:
        yield MemagentStore(own_pool, "ana")


@pytest.mark.parametrize("query", [None, QUESTION])
def test_a_page_may_be_larger_than_a_databases_numbers(store: MemagentStore, query: str | None) -> None:
    for key in "abc":
        store.put(NOTES, key, {"text": FACT})
    assert len(store.search((), query=query, limit=HUGE)) == 3
    assert len(store.search((), query=query, limit=HUGE, filter={"text": FACT})) == 3
    assert store.search((), query=query, offset=HUGE) == []
    assert store.list_namespaces(limit=HUGE) == [NOTES]


@pytest.mark.parametrize("index", [True, "text", [5], {"text": 1}, 3])
def test_an_index_that_names_no_fields_is_refused(store: MemagentStore, index: Any) -> None:
    with pytest.raises(InputError, match=r"index=.*expected a list of fields.*Nothing was stored"):
        store.batch([PutOp(NOTES, "cat", {}), PutOp(NOTES, "dog", {"text": FACT}, index)])
    assert store.search(()) == []


def test_a_long_query_is_taken_apart_once(store: MemagentStore) -> None:
    store.batch([PutOp(NOTES, str(number), {"text": "The sea."}) for number in range(100)])
    began = time.monotonic()
    assert len(store.search((), query="What about zyxgrabl? " * 10_000, limit=50)) == 50
    assert time.monotonic() - began < 5  # one after the other for each item: half a minute


def test_a_label_with_a_period_is_a_label(store: MemagentStore) -> None:
    """LangGraph refuses it, but not in a batch; stores that join labels by periods then mix up two namespaces."""
    store.put(("a", "b"), "key", {"labels": 2})
    store.batch([PutOp(("a.b",), "key", {"labels": 1})])
    one, two, found = store.batch([GetOp(("a.b",), "key"), GetOp(("a", "b"), "key"), SearchOp(("a",))])
    assert [one.value, two.value] == [{"labels": 1}, {"labels": 2}]  # type: ignore[union-attr]
    assert [item.namespace for item in found] == [("a", "b")]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "label", ["*", "%", "_", "[", "\\", '"', "a/b", "A", "\u0308", "😀", " ", "x" * 5000]
)
def test_any_label_is_itself_only(store: MemagentStore, label: str) -> None:
    others = [("other",), (f"{label}2",), ("a", label), ("a",)]
    for namespace in (*others, (label,), (label, "below")):
        store.put(namespace, "key", {"namespace": list(namespace)})
    assert {item.namespace for item in store.search((label,))} == {(label,), (label, "below")}
    assert {item.namespace for item in store.search((), limit=50)} == {*others, (label,), (label, "below")}


@pytest.mark.parametrize("number", [2**63, -(2**64), 10**400, 5e-324, -0.0, 1e308])
def test_any_number_of_json_is_kept(store: MemagentStore, number: float) -> None:
    store.put(NOTES, "key", {"number": number})
    item = store.get(NOTES, "key")
    assert item is not None
    assert repr(item.value) == repr({"number": number})
