"""Measure how many tokens a MeMo memory stores and regenerates in a second, and how that grows with d, h and l.

    python examples/memo/memo_speed.py --dims 512 1024 2048
    python examples/memo/memo_speed.py --dims 1024 --heads 2 4 8 --layers 1 2 3 --output json

"Equations" is the paper's text in plain torch, one pair at a time: a key of h projected vectors, an outer product for each layer,
and for retrieval a product with the embedding of the whole vocabulary.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from memagent.backends.neural.memo import MeMoMemory, MeMoSettings, regenerate
from memagent.backends.neural.memo.paper import PaperMeMo
from memagent.backends.neural.memo.settings import COMPOSITIONS

TEXTS, LENGTH = 64, 40
VOCABULARY = 16_000


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(dim: int, heads: int, layers: int, composition: str) -> dict[str, Any]:
    """Return tokens a second of a memory that has read a little before, so that projections are drawn."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(VOCABULARY, (2 * TEXTS, LENGTH), generator=generator).tolist()
    memory = MeMoMemory(MeMoSettings(VOCABULARY, dim, heads, layers, composition=composition))
    memory.memorise(texts[TEXTS:])
    prompts = [text[:heads] for text in texts[TEXTS:]]
    regenerate(memory, prompts, limit=1)
    stored = TEXTS * LENGTH
    batch = seconds(lambda: memory.memorise(texts[:TEXTS]))

    def forget_each() -> None:
        for text in texts[: TEXTS // 4]:
            memory.forget([text])

    single = seconds(forget_each)
    regenerate(memory, prompts[:1], limit=1)
    read = seconds(lambda: regenerate(memory, prompts, limit=LENGTH - heads))
    return {
        "version": composition, "dim": dim, "heads": heads, "layers": layers,
        "memorised": round(stored / batch),
        "forgotten_one_text_at_a_time": round(stored / 4 / single),
        "regenerated": round(TEXTS * (LENGTH - heads) / read),
        "bytes": sum(buffer.nbytes for buffer in memory.buffers()),
    }  # fmt: skip


def measure_equations(dim: int, heads: int, layers: int) -> dict[str, Any]:
    memory = PaperMeMo(VOCABULARY, dim, heads, layers, codes="projected")
    text = torch.randint(VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(0))

    def store() -> None:
        for keys, _, ends in memory._windows(text):
            for key, end in zip(keys, ends.tolist(), strict=True):
                if end < len(text):
                    memory.last += torch.outer(key, memory.embedding[text[end]])

    def read() -> None:
        for end in range(heads, LENGTH):
            layer = max(i for i in range(1, layers + 1) if heads**i <= end)
            (memory.embedding @ memory.retrieve(text[None, end - heads**layer : end])[0]).argmax()

    store()
    read()
    return {
        "version": "equations", "dim": dim, "heads": heads, "layers": layers,
        "memorised": round(LENGTH / seconds(store)), "forgotten_one_text_at_a_time": None,
        "regenerated": round((LENGTH - heads) / seconds(read)), "bytes": memory.last.nbytes,
    }  # fmt: skip


def runs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for dim, heads, layers in product(options.dims, options.heads, options.layers):
        if dim % heads or heads**layers > dim:
            continue
        for composition in options.compositions:
            yield measure(dim, heads, layers, composition)
        if heads**layers < LENGTH:
            yield measure_equations(dim, heads, layers)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dims", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--heads", type=int, nargs="+", default=[4])
    parser.add_argument("--layers", type=int, nargs="+", default=[2])
    parser.add_argument("--compositions", choices=COMPOSITIONS, nargs="+", default=["bound"])
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args(arguments)
    rows = list(runs(options))
    if options.output == "json":
        print(json.dumps({"threads": torch.get_num_threads(), "runs": rows}, indent=2))
        return
    table = Table(title=f"Tokens a second, {torch.get_num_threads()} threads")
    for column in ("version", "d", "h", "l", "memorised", "forgotten, text by text", "regenerated", "MB"):
        table.add_column(column, justify="right")
    for row in rows:
        *values, size = row.values()
        table.add_row(*("" if value is None else f"{value}" for value in values), f"{size / 1e6:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
