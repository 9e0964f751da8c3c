"""Measure how many pairs a single correlation matrix holds: figure 4 of the MeMo paper (https://arxiv.org/abs/2502.12851).

    python examples/memo/memo_capacity.py --results capacity.jsonl --sizes 4x128x512 8x64x512 4x256x1024 --seeds 0 1 2
    python examples/memo/memo_capacity.py --results capacity.jsonl --sizes 4x128x512 --plot capacity.png --output json

A size is h x d_h x d: h symbols, each with a Gaussian vector of d_h, are the key; a vector of d is the value. Symbols are drawn
from 100,000. Pairs are stored in batches of 1,000, until the mean of the accuracies of the first and of the newest batch is 0.9 or
less (section 4.1). The number of pairs stored then is the capacity, as in the authors' published runs; one batch less is held.

`--rule least_squares` stores more in the same matrix: it is the map from keys to values with the smallest squared error, for which
a second matrix is summed while pairs are stored.

The paper decodes both batches after each batch. Here the number of batches is found by bisection, from a bracket around the
predicted capacity: some 6 evaluations instead of 31 for 31,000 pairs.

If the process is killed, the same command continues: each line of the results is a measured size and seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from memo_plot import plot_capacity
from memo_results import open_results
from rich.console import Console
from rich.table import Table
from torch import Tensor

from memagent.backends.neural.memo.capacity import capacity as predicted_capacity
from memagent.kernels.cmm import accumulate, nearest_codes, retrieve

BATCH = 1000
THRESHOLD = 0.9
# Of least squares, in units of the mean squared element of all keys. 0.001 to 3 tried at 4x128x512 with 9,000 pairs, seed 0: the
# smaller, the better, from 0.81 to 0.84.
RIDGE = 0.001


class Pairs:
    """Batches of random pairs, each a function of the seed and its number."""

    def __init__(self, heads: int, head_size: int, dim: int, vocabulary: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        # Keys and values have norm 1.
        scale = (heads * head_size) ** -0.5
        self._parts = torch.randn(vocabulary, head_size, generator=generator).mul_(scale)
        self.codes = torch.randn(vocabulary, dim, generator=generator).mul_(dim**-0.5)
        self._heads, self._vocabulary, self._seed = heads, vocabulary, seed

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Return keys ``[1000, heads * head_size]`` and symbols ``[1000]``."""
        generator = torch.Generator().manual_seed((self._seed + 1) * 10**6 + number)
        symbols = torch.randint(self._vocabulary, (BATCH, self._heads + 1), generator=generator)
        return self._parts[symbols[:, :-1]].flatten(1), symbols[:, -1]


def accuracies(matrix: Tensor, pairs: Pairs, newest: int) -> tuple[float, float]:
    """Return the shares of the first and of the newest batch that are decoded correctly."""
    result = []
    for number in (0, newest):
        keys, symbols = pairs.batch(number)
        _, best = nearest_codes(retrieve(keys, matrix), pairs.codes, 1)
        result.append(float((best[:, 0] == symbols).float().mean()))
    return result[0], result[1]


@dataclass(frozen=True)
class Stored:
    """The first batches of pairs.

    Attributes:
        batches: How many.
        matrix: The sum of their outer products.
        gram: The sum of the outer products of their keys with themselves; None unless the rule is least squares.
    """

    batches: int
    matrix: Tensor
    gram: Tensor | None

    @classmethod
    def empty(cls, pairs: Pairs, rule: str) -> Stored:
        size = pairs.batch(0)[0].shape[1]
        gram = torch.zeros(size, size) if rule == "least_squares" else None
        return cls(0, torch.zeros(size, pairs.codes.shape[1]), gram)

    def extended(self, pairs: Pairs, batches: int) -> Stored:
        """Return a copy with more batches."""
        matrix, gram = self.matrix.clone(), None if self.gram is None else self.gram.clone()
        for number in range(self.batches, batches):
            keys, symbols = pairs.batch(number)
            accumulate(matrix, keys, pairs.codes[symbols])
            if gram is not None:
                accumulate(gram, keys, keys)
        return Stored(batches, matrix, gram)

    def memory(self) -> Tensor:
        """Return the matrix that is read: the sum, or the least-squares map from keys to values."""
        if self.gram is None:
            return self.matrix
        ridge = RIDGE * self.gram.diagonal().mean() * torch.eye(len(self.gram))
        solution: Tensor = torch.linalg.solve(self.gram + ridge, self.matrix)
        return solution


class Search:
    """Looks for the largest number of batches whose mean accuracy is above the threshold."""

    def __init__(self, pairs: Pairs, rule: str, note: Callable[[str], None]) -> None:
        self._pairs, self._note = pairs, note
        self._empty = self._last = Stored.empty(pairs, rule)
        self.evaluated = {0: (1.0, 1.0)}

    def run(self, guess: int) -> int:
        low, high = int(0.85 * guess), max(int(1.1 * guess), 1)
        while low and not self._holds(low, self._empty):
            low, high = int(0.7 * low), low
        below = self._last if low else self._empty
        while self._holds(high, below):
            low, high, below = high, int(1.3 * high) + 1, self._last
        while high - low > 1:
            middle = (low + high) // 2
            if self._holds(middle, below):
                low, below = middle, self._last
            else:
                high = middle
        return low

    def _holds(self, batches: int, below: Stored) -> bool:
        """Return whether so many batches are held, starting from fewer, and evaluate each number once."""
        if batches not in self.evaluated:
            self._last = below.extended(self._pairs, batches)
            self.evaluated[batches] = accuracies(self._last.memory(), self._pairs, batches - 1)
            first, newest = self.evaluated[batches]
            self._note(f"{batches * BATCH} pairs: first {first:.3f}, newest {newest:.3f}")
        return sum(self.evaluated[batches]) / 2 > THRESHOLD


def measure(setting: Mapping[str, Any], note: Callable[[str], None]) -> dict[str, Any]:
    heads, head_size, dim, vocabulary = (
        setting[name] for name in ("heads", "head_size", "dim", "vocabulary")
    )
    start = time.monotonic()
    search = Search(Pairs(heads, head_size, dim, vocabulary, setting["seed"]), setting["rule"], note)
    batches = search.run(round(predicted_capacity(heads * head_size, dim, vocabulary) / BATCH))
    held, beyond = search.evaluated[batches], search.evaluated[batches + 1]
    return {
        "parameters": heads * head_size * dim,
        "capacity": (batches + 1) * BATCH,
        "first": beyond[0],
        "mean": sum(beyond) / 2,
        "mean_held": sum(held) / 2,
        "evaluations": len(search.evaluated) - 1,
        "seconds": round(time.monotonic() - start, 1),
    }


def fit(rows: Iterable[Mapping[str, Any]]) -> dict[str, float] | None:
    """Return the least-squares line of capacity by parameters; None below two sizes."""
    points = [(row["parameters"], row["capacity"]) for row in rows]
    if len({x for x, _ in points}) < 2:
        return None
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    origin = sum(x * y for x, y in points) / sum(x * x for x, _ in points)
    return {"slope": slope, "intercept": mean_y - slope * mean_x, "slope_through_origin": origin}


def print_report(rows: Sequence[Mapping[str, Any]], line: Mapping[str, float] | None) -> None:
    table = Table(title="Pairs that one matrix holds")
    for column in ("h", "d_h", "d", "seed", "parameters", "capacity", "first", "mean", "mean before", "s"):
        table.add_column(column, justify="right")
    for row in rows:
        setting = row["setting"]
        table.add_row(
            *(str(setting[name]) for name in ("heads", "head_size", "dim", "seed")),
            f"{row['parameters']:,}", f"{row['capacity']:,}", f"{row['first']:.3f}", f"{row['mean']:.3f}",
            f"{row['mean_held']:.3f}", f"{row['seconds']:.0f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    if line:
        console.print(
            f"capacity = {line['slope']:.4f} parameters {line['intercept']:+,.0f}; "
            f"through the origin {line['slope_through_origin']:.4f}"
        )


def note(console: Console, name: str, text: str) -> None:
    console.print(f"{name}: {text}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    console = Console(stderr=True)
    results = open_results(options.results)
    wanted = []
    for size in options.sizes:
        for seed in options.seeds:
            setting = dict(zip(("heads", "head_size", "dim"), size, strict=True))
            setting |= {"vocabulary": options.vocabulary, "seed": seed, "rule": options.rule}
            wanted.append(setting)
            if not results.has(setting):
                name = f"{'x'.join(map(str, size))}, seed {seed}"
                results.add(setting, measure(setting, partial(note, console, name)))
    rows = [row for row in results.rows if row["setting"] in wanted]
    line = fit(rows)
    if options.output == "json":
        print(json.dumps({"fit": line, "runs": rows}, indent=2))
    else:
        print_report(rows, line)
    if options.plot:
        plot_capacity(rows, line, options.plot)


def size_of(text: str) -> tuple[int, ...]:
    size = tuple(map(int, text.split("x")))
    if len(size) != 3 or min(size) < 1:
        raise ValueError(text)
    return size


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="a .jsonl file; a run in it continues")
    parser.add_argument("--sizes", type=size_of, nargs="+", required=True, help="such as 4x128x512")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--vocabulary", type=int, default=100_000)
    parser.add_argument(
        "--rule", choices=("sum", "least_squares"), default="sum", help="how pairs are stored"
    )
    parser.add_argument("--plot", type=Path, help="write a plot to this .png file")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
