"""Measure how many texts a layered memory holds: figure 3 of the MeMo paper (https://arxiv.org/abs/2502.12851).

    python examples/memo/memo_layers.py --results layers.jsonl --layers 1 2 3 --dims 2048 --decoys 0 20
    python examples/memo/memo_layers.py --results layers.jsonl --layers 1 2 3 --dims 2048 --decoys 0 20 --plot layers.png

Texts of 1,024 random tokens are stored, 30 in an iteration, with h = 4. In a text with decoys one block of h tokens is repeated as
many times, at random places: after it, the last h tokens do not tell the next one. After 1, 4 and 10 iterations next tokens of the first 30
and of the newest 30 texts are decoded, from the h-th on, each by the layers whose windows fit before it. The authors' published
table has the accuracy on the first texts; the paper's figure has the mean of both.

The memory is `PaperMeMo`: Gaussian vectors, sums of floats, no count. `--stride h --codes retrieved` is the paper's text.

If the process is killed, the same command continues: each line of the results is a measured setting.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from memo_plot import plot_layers
from memo_results import open_results
from rich.console import Console
from rich.table import Table
from torch import Tensor

from memagent.backends.neural.memo.paper import CODES, PaperMeMo
from memagent.kernels.cmm import nearest_codes

HEADS = 4
LENGTH = 1024
TEXTS = 30  # in an iteration
CHECKPOINTS = (1, 4, 10)


def text(number: int, decoys: int, vocabulary: int, seed: int) -> Tensor:
    """Return a random text; with decoys, one block is repeated as many times."""
    generator = torch.Generator().manual_seed((seed + 1) * 10**6 + number)
    tokens = torch.randint(vocabulary, (LENGTH // HEADS, HEADS), generator=generator)
    places = torch.randperm(len(tokens), generator=generator)[: decoys + 1]
    tokens[places[1:]] = tokens[places[0]].clone()
    return tokens.flatten()


def questions(texts: Sequence[Tensor], stride: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return ``count`` random places of texts: the number of the text, and of the token, which is not among the first h."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(texts), (count,), generator=generator)
    steps = torch.randint((LENGTH - HEADS) // stride, (count,), generator=generator)
    return rows, HEADS + steps * stride


def accuracy(memory: PaperMeMo, texts: Sequence[Tensor], rows: Tensor, places: Tensor) -> float:
    """Return the share of tokens that are decoded correctly from the tokens before them."""
    joined = torch.stack(list(texts))
    correct = 0
    for layers in range(1, memory.layers + 1):
        window = HEADS**layers
        fits = places >= window if layers == memory.layers else (places >= window) & (places < HEADS * window)
        chosen = fits.nonzero()[:, 0]
        for start in range(0, len(chosen), 512):  # so that blocks of windows stay small
            part = chosen[start : start + 512]
            own_rows, own_places = rows[part], places[part]
            contexts = joined[own_rows[:, None], own_places[:, None] + torch.arange(-window, 0)]
            _, best = nearest_codes(memory.retrieve(contexts), memory.embedding, 1)
            correct += int((best[:, 0] == joined[own_rows, own_places]).sum())
    return correct / len(rows)


def measure(setting: Mapping[str, Any], console: Console) -> dict[str, Any]:
    start = time.monotonic()
    memory = PaperMeMo(
        setting["vocabulary"], setting["dim"], HEADS, setting["layers"],
        stride=setting["stride"], codes=setting["codes"], seed=setting["seed"],
    )  # fmt: skip

    def texts_of(iteration: int) -> list[Tensor]:
        numbers = range(iteration * TEXTS, (iteration + 1) * TEXTS)
        return [text(number, setting["decoys"], setting["vocabulary"], setting["seed"]) for number in numbers]

    points = []
    for iteration in range(setting["iterations"]):
        for each in texts_of(iteration):
            memory.memorise(each)
        if iteration + 1 in CHECKPOINTS:
            shares = []
            for texts in (texts_of(0), texts_of(iteration)):
                asked = questions(texts, setting["stride"], setting["questions"], iteration)
                shares.append(accuracy(memory, texts, *asked))
            first, newest = shares
            tokens = (iteration + 1) * TEXTS * LENGTH
            points.append({"tokens": tokens, "first": first, "newest": newest, "mean": (first + newest) / 2})
            console.print(f"{label(setting)}: {tokens:,} tokens: first {first:.3f}, newest {newest:.3f}")
    return {"accuracy": points, "seconds": round(time.monotonic() - start, 1)}


def label(setting: Mapping[str, Any]) -> str:
    return f"l={setting['layers']} d={setting['dim']} decoys={setting['decoys']}"


def settings_of(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for decoys, dim, layers in product(options.decoys, options.dims, options.layers):
        yield {
            "layers": layers, "dim": dim, "decoys": decoys, "vocabulary": options.vocabulary, "seed": options.seed,
            "stride": HEADS if options.stride == "h" else 1, "codes": options.codes,
            "iterations": options.iterations, "questions": options.questions,
        }  # fmt: skip


def print_report(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="Accuracy after 30,720 tokens and more: first texts / mean of first and newest")
    for column in ("decoys", "d", "l", "tokens", "first", "mean"):
        table.add_column(column, justify="right")
    for row in rows:
        setting = row["setting"]
        for point in row["accuracy"]:
            table.add_row(
                str(setting["decoys"]), str(setting["dim"]), str(setting["layers"]), f"{point['tokens']:,}",
                f"{point['first']:.3f}", f"{point['mean']:.3f}",
            )  # fmt: skip
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    console = Console(stderr=True)
    results = open_results(options.results)
    wanted = list(settings_of(options))
    for setting in wanted:
        if not results.has(setting):
            results.add(setting, measure(setting, console))
    rows = [row for row in results.rows if row["setting"] in wanted]
    if options.output == "json":
        print(json.dumps({"runs": rows}, indent=2))
    else:
        print_report(rows)
    if options.plot:
        plot_layers(rows, options.plot)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="a .jsonl file; a run in it continues")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--dims", type=int, nargs="+", default=[2048])
    parser.add_argument("--decoys", type=int, nargs="+", default=[0, 20, 40], help="of each text")
    parser.add_argument("--vocabulary", type=int, default=50_257, help="number of tokens, as GPT-NeoX's")
    parser.add_argument("--iterations", type=int, default=10, help="of 30 texts")
    parser.add_argument(
        "--questions", type=int, default=2000, help="next tokens that are decoded, of each group"
    )
    parser.add_argument("--stride", choices=("1", "h"), default="1")
    parser.add_argument("--codes", choices=CODES, default="product", help="of blocks; see PaperMeMo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="write a plot to this .png file")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
