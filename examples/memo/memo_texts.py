"""Memorise the pieces of a text file, regenerate them, forget half of them, and compare ways to compose keys.

    python examples/memo/memo_texts.py LICENSE --pieces 100 --length 100
    python examples/memo/memo_texts.py LICENSE --pieces 100 --layers 2 --compositions bound computed retrieved

Tokens are bytes. A piece is regenerated from its first h bytes, and from a random code of its own without any byte. After half of
the pieces are forgotten, the state must be that of a memory that never read them, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from memagent.backends.neural.memo import MeMoMemory, MeMoSettings, regenerate
from memagent.backends.neural.memo.settings import COMPOSITIONS
from memagent.backends.neural.memo.storage import digest

END = 256


def regenerated(memory: MeMoMemory, texts: Sequence[list[int]], codes: Tensor | None, given: int) -> float:
    """Return the share of texts that are regenerated without error from their first tokens."""
    results = regenerate(
        memory, [text[:given] for text in texts], codes, limit=len(max(texts, key=len)), end=END
    )
    correct = sum(result.ids == text[given:] for result, text in zip(results, texts, strict=True))
    return correct / len(texts)


def measure(texts: list[list[int]], settings: MeMoSettings, *, coded: bool) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(settings.seed)
    signs = 2 * torch.randint(0, 2, (len(texts), settings.dim), generator=generator) - 1
    codes = signs.to(torch.int8) if coded else None
    given = 0 if coded else settings.heads
    memory = MeMoMemory(settings)
    start = time.perf_counter()
    memory.memorise(texts, codes)
    seconds = time.perf_counter() - start
    row: dict[str, Any] = {
        "composition": settings.composition, "from": "code" if coded else f"first {given} bytes",
        "pairs": memory.pairs, "load": memory.load, "regenerated": regenerated(memory, texts, codes, given),
        "tokens_per_second": sum(map(len, texts)) / seconds,
    }  # fmt: skip
    order = random.Random(settings.seed).sample(range(len(texts)), len(texts))  # noqa: S311 - no secret
    gone, kept = order[: len(order) // 2], order[len(order) // 2 :]
    for number in gone:
        memory.forget([texts[number]], None if codes is None else codes[number, None])
    own = None if codes is None else codes[kept]
    row["kept_regenerated"] = regenerated(memory, [texts[number] for number in kept], own, given)
    other = MeMoMemory(settings)
    other.memorise([texts[number] for number in kept], own)
    row["same_bytes"] = digest(memory) == digest(other)
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--pieces", type=int, default=100)
    parser.add_argument("--length", type=int, default=100, help="bytes of a piece")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--compositions", nargs="+", choices=COMPOSITIONS, default=["bound"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", choices=("table", "json"), default="table")
    options = parser.parse_args(arguments)
    content = options.file.read_bytes()
    if len(content) < options.pieces * options.length:
        sys.exit(f"{options.file} has {len(content)} bytes; {options.pieces * options.length} are needed")
    texts = [
        [*content[number * options.length : (number + 1) * options.length], END]
        for number in range(options.pieces)
    ]
    rows = []
    for composition in options.compositions:
        settings = MeMoSettings(
            257, options.dim, options.heads, options.layers, composition=composition, seed=options.seed
        )
        rows += [measure(texts, settings, coded=coded) for coded in (False, True)]
    if options.output == "json":
        print(json.dumps({"runs": rows}, indent=2))
        return
    table = Table(title=f"{options.pieces} pieces of {options.length} bytes")
    for column in ("keys", "from", "pairs", "load", "regenerated", "kept half", "same bytes"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["composition"], row["from"], f"{row['pairs']:,}", f"{row['load']:.2f}",
            f"{row['regenerated']:.2f}", f"{row['kept_regenerated']:.2f}", str(row["same_bytes"]),
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
