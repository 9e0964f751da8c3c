"""The store against LangGraph's InMemoryStore: whatever is done, in any order, both answer the same.

Where InMemoryStore has quirks, this store follows LangGraph's documentation and its database stores instead:

| InMemoryStore | MemagentStore |
|---|---|
| a search without a query is in the order of first storing, namespace by namespace | the last stored first |
| lists namespaces that hold no item any more, or were only read | lists those that hold an item |
| ``$gt`` and its like raise for what is no number | compare texts with texts; else nothing fulfils them |
| raises NotImplementedError for a time to live | supports it |
| a tuple in a value stays a tuple, any object can be stored | JSON: a tuple becomes a list, other objects are refused |
| gives out the object that it stores | a new object at each reading |
| without an index, ignores a query | memory ranks; all items are returned, only the order differs |

``tests/langchain_suite/sqlite_store.py`` does the same with LangGraph's SqliteStore.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agent.integrations.langchain.store_machine import Differential, check, home_in_memory


@pytest.fixture
def machine() -> Iterator[type[Differential]]:
    with home_in_memory() as Differential.home:
        Differential.num_operations = 0
        yield Differential


def test_it_answers_as_langgraphs_store(machine: type[Differential]) -> None:
    check(machine, examples=12, steps=15)


@pytest.mark.slow
def test_ten_thousand_operations(machine: type[Differential]) -> None:
    while machine.num_operations < 10_000:
        check(machine, examples=50, steps=50)
