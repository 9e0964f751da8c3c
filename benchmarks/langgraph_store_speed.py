"""Time of put, get and search of MemagentStore beside LangGraph's InMemoryStore, without any language model.

python benchmarks/langgraph_store_speed.py [--backend rag] [--items 100 1000 10000] [--runs 30]

Both have the same items and embed by word hashing; `rag` adds its multilingual encoder. Prints medians in milliseconds,
and what comes once: the first search after all items were put, when memory reads them, and a purge of overwritten items.
Where langmem is installed, the tools that it gives to agents are called over both stores, too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langgraph.store.base import BaseStore, PutOp
from langgraph.store.memory import InMemoryStore

from memagent import Home
from memagent.agent.models.embedding import HashingEmbedder
from memagent.langchain import MemagentStore

NAMESPACES = 20
BATCH = 500
TEXT = "On day {number} I bought {number} apples and met friend number {number} at the harbour."
QUERY = "Whom did I meet at the harbour on day {number}?"


def address(number: int) -> tuple[tuple[str, str], str]:
    return ("notes", f"part {number % NAMESPACES}"), str(number)


def value(number: int) -> dict[str, Any]:
    return {"text": TEXT.format(number=number), "number": number}


def milliseconds(work: Callable[[int], object], runs: int) -> float:
    """Return the median time of a call with a number."""
    times = []
    for number in range(runs):
        began = time.perf_counter()
        work(number)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def once(work: Callable[[], object]) -> float:
    return milliseconds(lambda _: work(), 1)


def measure(store: BaseStore, items: int, runs: int) -> dict[str, float]:
    """Fill a store, and return times by what is done."""
    began = time.perf_counter()
    for start in range(0, items, BATCH):
        numbers = range(start, min(start + BATCH, items))
        store.batch([PutOp(*address(number), value(number)) for number in numbers])
    times = {f"an item of a batch of {BATCH}": 1000 * (time.perf_counter() - began) / items}
    times["first search"] = once(lambda: store.search(("notes",), query=QUERY.format(number=0)))
    times["put"] = milliseconds(lambda number: store.put(*address(items + number), value(number)), runs)
    times["overwrite"] = milliseconds(lambda number: store.put(*address(number), value(number)), runs)
    times["get"] = milliseconds(lambda number: store.get(*address(number)), runs)
    store.search(("notes",), query=QUERY.format(number=0))  # reads what was put
    searches: dict[str, dict[str, Any]] = {
        "search by query": {"query": QUERY},
        "search, no query": {},
        "search by filter": {"filter": {"number": {"$lt": 5}}},
    }
    for name, options in searches.items():
        times[name] = milliseconds(
            lambda number, options=options: store.search(  # type: ignore[misc]
                ("notes",), **{key: _numbered(part, number) for key, part in options.items()}
            ),
            runs,
        )
    times["search by query, one namespace of 20"] = milliseconds(
        lambda number: store.search(("notes", "part 3"), query=QUERY.format(number=number)), runs
    )
    for name, call in langmem_calls(store).items():
        times[name] = milliseconds(call, runs)
    times["list_namespaces"] = milliseconds(lambda _: store.list_namespaces(), runs)
    if isinstance(store, MemagentStore):
        times[f"purge of {runs} items"] = once(store.purge)
    return times


def langmem_calls(store: BaseStore) -> dict[str, Callable[[int], object]]:
    """Return calls of LangMem's tools over a store; none where langmem is not installed."""
    try:
        from langmem import create_manage_memory_tool, create_search_memory_tool
    except ModuleNotFoundError:
        return {}
    manage = create_manage_memory_tool(("notes", "part 3"), store=store)
    search = create_search_memory_tool(("notes", "part 3"), store=store)
    return {
        "LangMem's manage_memory": lambda number: manage.invoke(
            {"content": TEXT.format(number=number), "action": "create"}
        ),
        "LangMem's search_memory": lambda number: search.invoke({"query": QUERY.format(number=number)}),
    }


def _numbered(part: Any, number: int) -> Any:
    return part.format(number=number) if isinstance(part, str) else part


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="rag")
    parser.add_argument("--items", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    embedder = HashingEmbedder()

    def embed(texts: Any) -> Any:
        return [vector.tolist() for vector in embedder.embed(list(texts))]

    for items in options.items:
        peer = InMemoryStore(index={"dims": embedder.dimension, "embed": embed, "fields": ["text"]})
        expected = measure(peer, items, options.runs)
        with tempfile.TemporaryDirectory() as folder:
            home = Home(Path(folder), Home.from_environment().models)
            with MemagentStore.open(
                "ana",
                backend=options.backend,
                home=home,
                fields=["text"],
                pool_options={"embedder": "hashing"},
            ) as store:
                times = measure(store, items, options.runs)
        print(f"\n{items:,} items, {options.backend}: InMemoryStore, MemagentStore, ratio")
        for name, time_ in times.items():
            beside = expected.get(name)
            ratio = f"{beside:9.3f} {time_:9.2f} {time_ / beside:9.1f}" if beside else f"{'':9} {time_:9.2f}"
            print(f"  {name:38} {ratio}", flush=True)


if __name__ == "__main__":
    main()
