"""Clustered retrieval of the context bank against brute force, on synthetic clustered vectors.

    python benchmarks/context_bank_clusters.py
    python benchmarks/context_bank_clusters.py --sizes 10000 100000 --top-k 1 4 16 --output json

Vectors are a mixture of Gaussians with about 200 vectors a topic, scaled to length 1; queries are stored vectors with noise.
`recall@10` is the share of the ten most similar vectors that a search finds; `scanned` the share of vectors whose similarity it
computes. Searches of a query by all methods follow each other, so that other work on the machine slows them alike; times are medians
of the wall clock, `ratio` is brute force over the method. `two levels` builds as many or ten times as many clusters from clusters of
clusters: a vector is compared with the centroids of the first level and then with those below the nearest one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from memagent.backends.context_bank.clusters import Clusters, fit_centroids, nearest_centroids

Floats = NDArray[np.float32]
LIMIT = 10
ROWS_AT_ONCE = 16_384


@dataclass
class Method:
    """One setting of one method; ``candidates`` returns indices for a query, or None for all vectors."""

    name: str
    clusters: int
    top_k: int
    seconds: float
    candidates: Callable[[Floats], NDArray[np.int64] | None]
    times: list[float] = field(default_factory=list)
    recalls: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def search(self, keys: Floats, query: Floats) -> tuple[NDArray[np.int64], int]:
        """Return the ten most similar candidates, and how many there were."""
        indices = self.candidates(query)
        scores = (keys if indices is None else keys[indices]) @ query
        limit = min(LIMIT, len(scores))
        best = np.argpartition(-scores, limit - 1)[:limit]
        return (best if indices is None else indices[best]), len(scores)


def vectors(size: int, dim: int, noise: float, seed: int) -> Floats:
    """Return unit vectors ``[size, dim]`` around topics."""
    draw = np.random.default_rng(seed)
    topics = draw.standard_normal((max(8, size // 200), dim), np.float32)
    keys = np.empty((size, dim), np.float32)
    for start in range(0, size, ROWS_AT_ONCE):
        rows = keys[start : start + ROWS_AT_ONCE]
        rows[:] = topics[draw.integers(len(topics), size=len(rows))]
        rows += noise * draw.standard_normal(rows.shape, np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return keys


def noisy_members(keys: Floats, count: int, noise: float, seed: int) -> Floats:
    """Return queries ``[count, dim]``: stored vectors with noise of a length of ``noise``, scaled to length 1."""
    draw = np.random.default_rng(seed)
    chosen = keys[draw.integers(len(keys), size=count)]
    queries = chosen + noise / math.sqrt(keys.shape[1]) * draw.standard_normal(chosen.shape, np.float32)
    units: Floats = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return units


def two_levels(keys: Floats, num_clusters: int, seed: int) -> tuple[Floats, NDArray[np.int32]]:
    """Return centroids and labels of about ``num_clusters`` clusters, built from clusters of clusters."""
    upper = fit_centroids(keys, math.isqrt(num_clusters), seed)
    branches, _ = nearest_centroids(keys, upper)
    centroids: list[Floats] = []
    labels, offset = np.zeros(len(keys), np.int32), 0
    for branch in range(len(upper)):
        rows = np.flatnonzero(branches == branch)
        if not len(rows):
            continue
        below = max(1, round(num_clusters * len(rows) / len(keys)))
        centroids.append(fit_centroids(keys[rows], below, seed))
        labels[rows] = offset + nearest_centroids(keys[rows], centroids[-1])[0]
        offset += below
    return np.concatenate(centroids), labels


def member_lists(
    centroids: Floats, labels: NDArray[np.int32], top_k: int
) -> Callable[[Floats], NDArray[np.int64]]:
    """Return a search for the members of the ``top_k`` nearest clusters, as ``Clusters.candidates`` does it."""
    members = np.split(
        np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=len(centroids)))[:-1]
    )

    def candidates(query: Floats) -> NDArray[np.int64]:
        nearest = np.argpartition(-(centroids @ query), top_k - 1)[:top_k]
        return np.sort(np.concatenate([members[cluster] for cluster in nearest]))

    return candidates


def methods(keys: Floats, top_ks: Sequence[int], seed: int, step: Callable[[str], None]) -> Iterator[Method]:
    """Yield brute force, clusters, and clusters in two levels, each with every ``top_k``."""
    yield Method("brute force", 0, 0, 0.0, lambda query: None)
    step("clusters")
    began = time.perf_counter()
    flat = Clusters(seed, brute_force_below=0)
    flat.update(keys)
    seconds = time.perf_counter() - began
    for top_k in top_ks:
        yield Method("clusters", len(flat), top_k, seconds, partial(flat.candidates, top_k=top_k))
    for factor in (1, 10):
        step(f"two levels, {factor} sqrt(n)")
        began = time.perf_counter()
        centroids, labels = two_levels(keys, factor * math.isqrt(len(keys)), seed)
        seconds = time.perf_counter() - began
        for top_k in top_ks:
            search = member_lists(centroids, labels, factor * top_k)
            yield Method("two levels", len(centroids), factor * top_k, seconds, search)


def compare(size: int, arguments: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    """Return a row for each method at one size."""
    task = progress.add_task(f"{size:,}: vectors", total=arguments.queries)
    keys = vectors(size, arguments.dim, arguments.noise, arguments.seed)
    queries = noisy_members(keys, arguments.queries, arguments.query_noise, arguments.seed + 1)

    def step(what: str) -> None:
        progress.update(task, description=f"{size:,}: {what}")

    every = list(methods(keys, arguments.top_k, arguments.seed, step))
    step("queries")
    for query in queries:
        nearest = np.zeros(0, np.int64)
        for method in every:
            began = time.perf_counter()
            hits, scanned = method.search(keys, query)
            method.times.append(time.perf_counter() - began)
            nearest = nearest if len(nearest) else hits
            method.recalls.append(float(np.isin(nearest, hits).mean()))
            method.shares.append(scanned / size)
        progress.advance(task)
    baseline = statistics.median(every[0].times)
    return [
        {
            "vectors": size,
            "method": method.name,
            "clusters": method.clusters,
            "top_k": method.top_k,
            "recall": round(statistics.mean(method.recalls), 4),
            "scanned": round(statistics.mean(method.shares), 5),
            "milliseconds": round(1000 * statistics.median(method.times), 3),
            "ratio": round(baseline / statistics.median(method.times), 2),
            "clustering_seconds": round(method.seconds, 2),
        }
        for method in every
    ]


def show(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Print the rows as a table."""
    table = Table(title=title)
    for heading in (
        "vectors",
        "method",
        "clusters",
        "top k",
        "recall@10",
        "scanned",
        "ms",
        "ratio",
        "clustering s",
    ):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in rows:
        table.add_row(
            f"{row['vectors']:,}",
            row["method"],
            f"{row['clusters']:,}",
            str(row["top_k"]),
            f"{row['recall']:.3f}",
            f"{row['scanned']:.2%}",
            f"{row['milliseconds']:.2f}",
            f"{row['ratio']:.1f}",
            f"{row['clustering_seconds']:.1f}",
        )
    Console(width=120).print(table)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument(
        "--noise", type=float, default=1.0, help="standard deviation within a topic; topics have 1"
    )
    parser.add_argument("--query-noise", type=float, default=0.4, help="length of the noise; vectors have 1")
    parser.add_argument("--queries", type=int, default=101)
    parser.add_argument("--top-k", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for size in arguments.sizes:
            rows += compare(size, arguments, progress)
    title = f"{arguments.queries} queries, {arguments.dim} elements, noise {arguments.noise:g} and {arguments.query_noise:g}"
    if arguments.output == "json":
        print(json.dumps({"title": title, "rows": rows}, indent=1))
    else:
        show(rows, title)


if __name__ == "__main__":
    main()
