"""A user's journal as a LangGraph store."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.store.base import GetOp, InvalidNamespaceError, ListNamespacesOp, PutOp, SearchOp

from memagent.agent.doctor import examine
from memagent.agent.home import Home
from memagent.agent.journal.item_index import outdated_seqs
from memagent.agent.journal.records import MAX_ATTACHMENT_BYTES
from memagent.agent.memory import open_journal
from memagent.backends.errors import BusyError, InputError, SettingError
from memagent.langchain import MemagentStore, MemoryPool
from tests.agent.memories import bytes_of
from tests.cli.running import Run, run  # noqa: F401 - a fixture
from tests.conftest import OpenMemory
from tests.scripts import run_script

EXAMPLE = Path(__file__).parents[4] / "examples" / "langgraph_store.py"
NOTES = ("notes",)
DOG, CAT = {"text": "My dog is called Biscuit."}, {"text": "My cat is called Tiger."}
QUESTION = "What is my dog called?"


class Clock:
    """A time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def wait(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(pool: MemoryPool, clock: Clock) -> MemagentStore:
    return MemagentStore(pool, "ana", clock=clock)


def keys(store: MemagentStore, *prefix: str, **options: Any) -> list[str]:
    return [item.key for item in store.search(prefix, **options)]


def num_turns(store: MemagentStore, pool: MemoryPool) -> int:
    with pool.memory(store.user) as memory:
        return memory.journal.count()


def test_an_item_is_stored_found_and_deleted(store: MemagentStore) -> None:
    store.put(NOTES, "dog", DOG)
    item = store.get(NOTES, "dog")
    assert item is not None
    assert (item.namespace, item.key, item.value) == (NOTES, "dog", DOG)
    assert store.get(NOTES, "cat") is None
    assert store.get(("others",), "dog") is None
    store.delete(NOTES, "dog")
    store.delete(NOTES, "dog")
    assert store.get(NOTES, "dog") is None
    assert (store.search(()), store.list_namespaces()) == ([], [])


def test_an_overwrite_is_a_new_item(store: MemagentStore, clock: Clock) -> None:
    store.put(NOTES, "dog", DOG)
    first = clock.now
    clock.wait(1)
    store.put(NOTES, "dog", CAT)
    item = store.get(NOTES, "dog")
    assert item is not None
    assert (item.value, item.created_at, item.updated_at) == (CAT, clock.now, clock.now)
    assert first < clock.now


def test_a_value_is_a_new_object_at_each_reading(store: MemagentStore) -> None:
    value: dict[str, Any] = {"list": [1]}
    store.put(NOTES, "key", value)
    value["list"].append(2)
    item = store.get(NOTES, "key")
    assert item is not None
    assert item.value == {"list": [1]}
    item.value["list"].append(3)
    assert store.search(())[0].value == {"list": [1]}


def test_a_search_without_a_query_returns_the_last_stored_first(store: MemagentStore) -> None:
    for key in "abcde":
        store.put((*NOTES, key), key, {"letter": key})
    store.put((*NOTES, "b"), "b", {"letter": "B"})
    assert keys(store, "notes") == list("bedca")
    assert keys(store, "notes", limit=2, offset=1) == ["e", "d"]
    assert keys(store, "notes", "c") == ["c"]
    assert keys(store, "note") == []
    assert {item.score for item in store.search(NOTES)} == {None}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"n": 2}, "b"),
        ({"n": {"$eq": 2}}, "b"),
        ({"n": {"$ne": 2}}, "acd"),
        ({"n": {"$gt": 1}}, "bc"),
        ({"n": {"$gte": 2, "$lt": 3}}, "b"),
        ({"n": {"$lte": 2}}, "ab"),
        ({"n": 1, "tag": {"kind": "x"}}, "a"),
        ({"tag": {"kind": {"$ne": "x"}}}, "b"),
        ({"list": [1, {"$gt": 1}]}, "a"),
        ({"n": None}, "d"),
        ({"day": {"$gt": "2024-05-01"}}, "b"),
        ({"unknown": {"$gt": 1}}, ""),
        ({}, "abcd"),
    ],
)
def test_filters(store: MemagentStore, condition: dict[str, Any], expected: str) -> None:
    store.put(NOTES, "a", {"n": 1, "tag": {"kind": "x"}, "list": [1, 2], "day": "2024-05-01"})
    store.put(NOTES, "b", {"n": 2, "tag": {"kind": "y"}, "list": [1], "day": "2024-05-02"})
    store.put(NOTES, "c", {"n": 3.5, "list": "12"})
    store.put(NOTES, "d", {"day": 5})
    assert sorted(keys(store, filter=condition)) == list(expected)


def test_an_unknown_operator_is_an_error(store: MemagentStore) -> None:
    store.put(NOTES, "a", {"n": 1})
    with pytest.raises(ValueError, match=r"Unsupported operator: \$in"):
        store.search((), filter={"n": {"$in": [1]}})


def test_a_query_ranks_items_by_memory(store: MemagentStore) -> None:
    store.put(NOTES, "dog", DOG)
    store.put(NOTES, "cat", CAT)
    store.put(("others",), "dog", DOG)
    store.put(NOTES, "hidden", {"text": "My dog is called Rex."}, index=False)
    dog, *others = store.search(NOTES, query=QUESTION)
    assert (dog.key, dog.score) == ("dog", 1.0)
    assert [(item.key, item.score) for item in others] == [("cat", 0.5), ("hidden", None)]
    assert keys(store, "notes", query=QUESTION, limit=1) == ["dog"]
    assert keys(store, "notes", query=QUESTION, offset=1) == ["cat", "hidden"]
    assert keys(store, "notes", query=QUESTION, filter={"text": {"$ne": DOG["text"]}}) == ["cat", "hidden"]
    assert keys(store, "notes", query="   ") == ["hidden", "cat", "dog"]


@pytest.mark.parametrize("backend", ["rag", "bm25", "in_memory"])
def test_a_search_ranks_the_items_of_its_prefix_beside_better_ones_of_others(
    home: Home, backend: str
) -> None:
    settings = {"candidates": "10"} if backend == "rag" else {}
    with MemagentStore.open("ana", backend=backend, home=home, settings=settings) as store:
        others = [
            PutOp(("others",), str(number), {"text": f"{QUESTION} Rex {number}, dog."})
            for number in range(500)
        ]
        store.batch([*others, PutOp(NOTES, "dog", DOG), PutOp(NOTES, "sea", {"text": "The sea is my home."})])
        dog, sea = store.search(NOTES, query=QUESTION)
        assert (dog.key, sea.key) == ("dog", "sea")
        assert dog.score is not None
        assert [item.score is None for item in store.search((), query=QUESTION, limit=3)] == 3 * [False]


def test_what_memory_does_not_rank_is_ordered_by_words_in_a_store_of_any_size(home: Home) -> None:
    with MemagentStore.open("ana", backend="none", home=home) as store:
        store.put(NOTES, "dog", DOG)
        store.batch([PutOp(NOTES, str(number), {"text": "The sea."}) for number in range(1500)])
        assert keys(store, "notes", query=QUESTION, limit=2) == ["dog", "1499"]


def test_a_store_that_abstains_leaves_out_what_is_not_relevant(pool: MemoryPool) -> None:
    store = MemagentStore(pool, "ana", abstain=True)
    store.put(NOTES, "dog", DOG)
    store.put(NOTES, "bird", {"text": "The parrot sings."})
    assert keys(store, query=QUESTION) == ["dog"]
    assert keys(store, query="Where did I park?") == []


def test_items_with_the_same_text_are_all_found(store: MemagentStore) -> None:
    for key in "abc":
        store.put(NOTES, key, DOG)
    assert sorted(keys(store, query=QUESTION)) == list("abc")


def test_what_the_user_said_is_no_item(store: MemagentStore, pool: MemoryPool) -> None:
    with pool.memory("ana") as memory:
        for place in range(30):
            memory.remember("monday", "user", f"My dog is called Biscuit {place}.")
    store.put(NOTES, "dog", DOG)
    assert keys(store, query=QUESTION) == ["dog"]
    assert (store.search(NOTES, query=QUESTION)[0].score or 0) > 0
    with pool.memory("ana") as memory:
        assert "tool" in {item.role for item in memory.recall(QUESTION, limit=50)}


@pytest.mark.parametrize(
    ("fields", "index", "query", "is_ranked"),
    [
        (["$"], None, "Biscuit", True),
        (["$"], None, "Rita", True),
        (["dog.name"], None, "Biscuit", True),
        (["dog.name"], None, "Rita", False),
        (["$"], ["friends[*].name"], "Rita", True),
        (["$"], ["friends[*].name"], "Biscuit", False),
        (["$"], ["nothing"], "Biscuit", False),
        (["$"], [], "Biscuit", False),
        (["$"], False, "Biscuit", False),
    ],
)
def test_memory_searches_the_fields_of_the_index(
    pool: MemoryPool, fields: list[str], index: Any, query: str, is_ranked: bool
) -> None:
    store = MemagentStore(pool, "ana", fields=fields, abstain=True)
    value = {"dog": {"name": "Biscuit"}, "friends": [{"name": "Rita"}, {"name": "Ivo"}]}
    store.put(NOTES, "key", value, index=index)
    assert bool(store.search(NOTES, query=query)) is is_ranked


def test_the_text_of_a_turn_is_readable(store: MemagentStore, pool: MemoryPool) -> None:
    store.put(NOTES, "a", DOG)
    store.put(NOTES, "b", {"dog": {"name": "Biscuit", "age": 3, "chip": None}, "tags": ["a", "b"]})
    store.put(NOTES, "c", {})
    with pool.memory("ana") as memory:
        texts = [turn.text for turn in memory.journal.turns()]
    assert texts == [DOG["text"], "dog.name: Biscuit\ndog.age: 3\ntags: a\ntags: b", "(no text)"]


def test_namespaces_are_listed(store: MemagentStore) -> None:
    for labels in (("a", "b", "c"), ("a", "b", "d", "e"), ("a", "c"), ("b", "c")):
        store.put(labels, "key", {})
    assert store.list_namespaces() == [("a", "b", "c"), ("a", "b", "d", "e"), ("a", "c"), ("b", "c")]
    assert store.list_namespaces(prefix=("a",), max_depth=2) == [("a", "b"), ("a", "c")]
    assert store.list_namespaces(suffix=("c",)) == [("a", "b", "c"), ("a", "c"), ("b", "c")]
    assert store.list_namespaces(prefix=("a", "*", "d")) == [("a", "b", "d", "e")]
    assert store.list_namespaces(limit=2, offset=1) == [("a", "b", "d", "e"), ("a", "c")]


@pytest.mark.parametrize("namespace", [(), ("a.b",), ("langgraph",), ("",), (1,)])
def test_a_namespace_that_langgraph_refuses_is_refused(store: MemagentStore, namespace: Any) -> None:
    with pytest.raises(InvalidNamespaceError):
        store.put(namespace, "key", {})
    with pytest.raises(InvalidNamespaceError):
        store.batch([PutOp(namespace, "key", {})]) if namespace in ((), (1,)) else store.put(
            namespace, "key", {}
        )


@pytest.mark.parametrize(
    "value", [{"a": object()}, {"a": float("nan")}, {"a": {1: 2}}, {"a": "x" * MAX_ATTACHMENT_BYTES}]
)
def test_a_value_that_cannot_be_stored_stores_nothing(store: MemagentStore, value: Any) -> None:
    store.put(NOTES, "dog", DOG)
    with pytest.raises(InputError, match=r"The item 'bad' in \('notes',\).*Nothing was stored"):
        store.batch([PutOp(NOTES, "dog", CAT), PutOp(NOTES, "bad", value)])
    item = store.get(NOTES, "dog")
    assert item is not None
    assert item.value == DOG


def test_reads_of_a_batch_see_the_state_before_its_puts(store: MemagentStore) -> None:
    store.put(NOTES, "dog", DOG)
    results: list[Any] = store.batch(
        [
            PutOp(NOTES, "cat", DOG),
            PutOp(NOTES, "cat", CAT),
            PutOp(NOTES, "dog", None),
            GetOp(NOTES, "cat"),
            GetOp(NOTES, "dog"),
            SearchOp(NOTES),
            ListNamespacesOp(),
        ]
    )
    assert results[:4] == [None, None, None, None]
    assert results[4].value == DOG
    assert [item.key for item in results[5]] == ["dog"]
    assert results[6] == [NOTES]
    assert [item.value for item in store.search(())] == [CAT]
    assert store.batch([]) == []
    with pytest.raises(ValueError, match="Unknown operation"):
        store.batch(["get"])  # type: ignore[list-item]


def test_times_to_live(pool: MemoryPool, clock: Clock) -> None:
    store = MemagentStore(pool, "ana", ttl={"default_ttl": 10, "refresh_on_read": True}, clock=clock)
    store.put(NOTES, "default", DOG)
    store.put(NOTES, "short", DOG, ttl=1)
    store.put(NOTES, "for good", DOG, ttl=None)
    clock.wait(2)
    assert keys(store, refresh_ttl=False) == ["for good", "default"]
    clock.wait(7)
    assert store.get(NOTES, "default") is not None  # at minute 9, so it lives until 19
    clock.wait(9)
    assert keys(store, limit=1, offset=1) == ["default"]  # at minute 18, until 28
    clock.wait(9)
    assert store.get(NOTES, "default", refresh_ttl=False) is not None
    clock.wait(2)
    assert (store.get(NOTES, "default"), keys(store), keys(store, query=QUESTION)) == (
        None,
        ["for good"],
        ["for good"],
    )
    assert store.supports_ttl


def test_expired_items_are_purged(pool: MemoryPool, home: Home) -> None:
    clock = Clock()
    clock.wait(-60)
    with MemagentStore(pool, "ana", ttl={"default_ttl": 10}, clock=clock) as store:
        store.put(NOTES, "dog", DOG)
    assert num_turns(store, pool) == 0
    pool.close()
    assert b"Biscuit" not in bytes_of(home.root)


def test_purging_and_closing_remove_what_is_outdated(pool: MemoryPool, home: Home) -> None:
    with MemagentStore(pool, "ana") as store:
        store.put(NOTES, "dog", DOG)
        store.put(NOTES, "dog", CAT)
        assert num_turns(store, pool) == 2
        assert store.purge().remaining == ()
        assert num_turns(store, pool) == 1
        store.delete(NOTES, "dog")
    assert num_turns(store, pool) == 0
    pool.close()
    assert b"Biscuit" not in bytes_of(home.root)
    assert [finding for finding in examine(home) if finding.level == "wrong"] == []


def test_many_outdated_items_are_purged_by_a_put(pool: MemoryPool) -> None:
    store = MemagentStore(pool, "ana", purge_after=10)
    for number in range(25):
        store.put(NOTES, "counter", {"n": number})
    assert num_turns(store, pool) == 5
    item = store.get(NOTES, "counter")
    assert item is not None
    assert item.value == {"n": 24}


def test_forgetting_on_the_command_line_removes_an_item(
    store: MemagentStore,
    pool: MemoryPool,
    home: Home,
    run: Run,  # noqa: F811
) -> None:
    store.put(NOTES, "dog", DOG)
    store.put(NOTES, "cat", CAT)
    pool.close()
    assert run("forget", "--seq", "1", "--yes", "--user", "ana", "--backend", "in_memory").exit_code == 0
    with MemagentStore.open("ana", backend="in_memory", home=home) as again:
        assert (again.get(NOTES, "dog"), keys(again)) == (None, ["cat"])
    assert b"Biscuit" not in bytes_of(home.root)


def test_users_have_items_of_their_own(pool: MemoryPool) -> None:
    stores = {name: MemagentStore(pool, name) for name in ("ana", "bob")}
    stores["ana"].put(NOTES, "dog", DOG)
    assert stores["bob"].get(NOTES, "dog") is None
    assert stores["bob"].search((), query=QUESTION) == []
    stores["bob"].delete(NOTES, "dog")
    assert stores["ana"].get(NOTES, "dog") is not None


def test_a_store_needs_a_user(pool: MemoryPool, open_memory: OpenMemory) -> None:
    with pytest.raises(SettingError, match="user=NAME"):
        MemagentStore(pool)
    with open_memory() as memory:
        store = MemagentStore(memory)
        store.put(NOTES, "dog", DOG)
        assert keys(store) == ["dog"]


def test_async_calls_do_not_block_the_loop(store: MemagentStore) -> None:
    threads: set[int] = set()
    batch = store.batch

    def recording(ops: Any) -> Any:
        threads.add(threading.get_ident())
        return batch(ops)

    async def work() -> list[str]:
        await asyncio.gather(*(store.aput(NOTES, str(number), DOG) for number in range(10)))
        item = await store.aget(NOTES, "3")
        assert item is not None
        await store.adelete(NOTES, "3")
        assert await store.alist_namespaces() == [NOTES]
        return [item.key for item in await store.asearch(NOTES, query=QUESTION, limit=20)]

    store.batch = recording  # type: ignore[method-assign]
    assert sorted(asyncio.run(work())) == [str(number) for number in range(10) if number != 3]
    assert threading.get_ident() not in threads


def test_threads_share_a_store(store: MemagentStore, pool: MemoryPool) -> None:
    def work(thread: int) -> None:
        for number in range(8):
            store.put((f"thread {thread}",), "counter", {"n": number})
            store.put(NOTES, "shared", {"thread": thread})
            item = store.get((f"thread {thread}",), "counter")
            assert item is not None
            assert item.value == {"n": number}
            assert len(store.search(NOTES, query="thread")) == 1

    with ThreadPoolExecutor(6) as executor:
        list(executor.map(work, range(6)))
    assert len(store.list_namespaces()) == 7
    with pool.memory("ana") as memory:
        assert memory.journal.audit() == []


def test_another_process_is_told_who_has_the_memory(store: MemagentStore, home: Home) -> None:
    store.put(NOTES, "dog", DOG)
    other = MemagentStore.open("ana", backend="in_memory", home=home, pool_options={"wait_seconds": 0.1})
    with pytest.raises(BusyError, match="ana"):
        other.put(NOTES, "dog", CAT)


def test_a_killed_process_leaves_its_items_and_no_deleted_ones(home: Home) -> None:
    script = f"""
import os, signal
from pathlib import Path
from memagent import Home
from memagent.langchain import MemagentStore
store = MemagentStore.open("ana", backend="in_memory", home=Home(Path({str(home.root)!r}), Path({str(home.models)!r})))
store.put(("notes",), "dog", {{"text": "My dog is called Biscuit."}})
store.put(("notes",), "cat", {{"text": "My cat is called Tiger."}})
store.delete(("notes",), "dog")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    with open_journal(home, "ana") as journal:
        assert outdated_seqs(journal) == {1}
    with MemagentStore.open("ana", backend="in_memory", home=home) as store:
        assert (keys(store), keys(store, query=QUESTION)) == (["cat"], ["cat"])
    assert b"Biscuit" not in bytes_of(home.root)


@pytest.mark.parametrize("backend", ["bm25", "in_memory+bm25"])
def test_a_store_with_its_own_pool_ranks_everything(home: Home, backend: str) -> None:
    with MemagentStore.open("ana", backend=backend, home=home) as store:
        store.put(NOTES, "dog", DOG)
        store.put(NOTES, "cat", CAT)
        assert [item.key for item in store.search(NOTES, query=QUESTION) if item.score is not None] == [
            "dog",
            "cat",
        ]
    with MemagentStore.open("ana", backend=backend, home=home) as store:
        assert sorted(keys(store)) == ["cat", "dog"]


def test_a_second_process_has_what_the_tools_of_an_agent_stored() -> None:
    output = run_script(EXAMPLE, "bm25").stdout
    assert '[tuesday] tools: ["The user\'s dog is called Rex."]' in output
    assert (
        "[tuesday] store: [('dog', \"The user's dog is called Rex.\"), ('home', 'The user lives in Porto.')]"
        in output
    )


def test_without_langgraph_the_message_names_the_command() -> None:
    script = (
        "import sys; sys.modules['langgraph'] = sys.modules['langgraph.store.base'] = None\n"
        "from memagent.langchain import MemagentStore"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "MemagentStore needs the Python module langgraph" in done.stderr
    assert "pip install 'memagent[langchain]'" in done.stderr


@tool
def save(text: str, runtime: ToolRuntime[Any, Any]) -> str:
    """Save a note."""
    assert runtime.store is not None
    runtime.store.put(NOTES, "note", {"text": text})
    return "saved"


class Model(GenericFakeChatModel):
    """Gives prepared messages, and takes tools."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self


def test_the_tools_of_an_agent_use_it(store: MemagentStore) -> None:
    call = {"name": "save", "args": {"text": DOG["text"]}, "id": "1"}
    model = Model(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("I have saved it.")]))
    agent: Any = create_agent(model, [save], store=store)
    agent.invoke({"messages": [("user", "Save that my dog is called Biscuit.")]})
    assert [item.value for item in store.search(NOTES, query=QUESTION)] == [DOG]


@pytest.fixture(autouse=True)
def _closed(pool: MemoryPool) -> Iterator[None]:
    yield
    pool.close()
