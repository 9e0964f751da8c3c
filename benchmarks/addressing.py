"""Searching stored attention keys: our hashing index, exact search and FAISS compared on one table.

    python benchmarks/addressing.py --text book.txt notes.txt --save keys.safetensors     keys of the default model
    python benchmarks/addressing.py --keys keys.safetensors --sizes 10000 100000 1000000
    python benchmarks/addressing.py --keys keys.safetensors --output json

A key file holds `keys` [n, dim], unrotated keys of one head, and `queries` [m, dim], rotated to the offset, in the
order of the questions' tokens; they are searched in batches. Keys are centred for every method, which changes no
ranking. Where a size needs more keys than the file holds, keys are drawn again with a tenth of their spread as noise, and
the table's title tells it.

Recall is against exact search in float32. `touched` counts keys whose inner product was computed, `compared` adds the
bucket means or centroids. The cheapest setting of each method that reaches `--recall` is marked with *.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

from memagent.agent.home import Home
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.chunks import TokenSpan
from memagent.backends.shared.attention.encoder import AttentionEncoder
from memagent.backends.shared.tokens import TextTokenizer
from memagent.kernels.lsh import LSHIndex

LAYER, HEAD, OFFSET, WINDOW = 3, 4, 256, 512
# The first tokens of a window draw attention whatever is asked (sinks): no memory would store them.
SINKS = 8
QUESTIONS = ["What do you know about {}?", "When did {} happen?", "Who is {}?", "Where was {} last seen?"]

Search = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Method:
    """One setting of one method; ``search`` takes queries [q, dim] and returns ids [q, limit]."""

    name: str
    setting: str
    search: Search
    build_seconds: float
    bytes_a_key: float
    touched: Callable[[], float | None] = lambda: None
    means: float = 0.0
    times: list[float] = field(default_factory=list)
    recalls: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def row(self, keys: int) -> dict[str, Any]:
        """Return the method's row of the table; medians and means over the batches."""
        touched = statistics.mean(self.shares) if self.shares else None
        return {
            "keys": keys,
            "method": self.name,
            "setting": self.setting,
            "recall": statistics.mean(self.recalls),
            "touched": touched,
            "compared": None if touched is None else touched + self.means,
            "milliseconds": 1000 * statistics.median(self.times),
            "build_seconds": self.build_seconds,
            "bytes_a_key": self.bytes_a_key,
        }


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds an action takes, and its result."""
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


def capture(texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Encode texts with the default model; return one query head's keys, and its queries of generated questions.

    Returns:
        ``keys`` [n, dim] in the model's type, unrotated, and ``queries`` [m, dim] float32, rotated to the offset, as the
        RoPE memory map stores and searches them.
    """
    local = as_local(load_chat_model("qwen2.5-coder-0.5b", Home.from_environment().models, notify=print))
    encoder, tokenizer = AttentionEncoder(local), TextTokenizer(local.tokenizer)
    ids = [token for text in texts for token in tokenizer.encode(text)]
    windows = [ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW)]
    spans = [TokenSpan(window[:SINKS], window[SINKS:]) for window in windows if len(window) > SINKS]
    encoded = encoder.encode(spans, num_layers=LAYER + 1)
    keys = [tensors.keys[:, LAYER, HEAD // encoder.group_size] for tensors in encoded]
    names = sorted({word.strip(".,;:!?'\"") for text in texts for word in text.split() if word[:1].isupper()})
    question_ids = [
        tokenizer.encode(QUESTIONS[place % len(QUESTIONS)].format(name))
        for place, name in enumerate(names[:: len(names) // 200 or 1])
    ]
    # The first token is left out: it is a sink itself.
    questions = [TokenSpan(ids[:1], ids[1:]) for ids in question_ids]
    encoded_questions = encoder.encode_queries(questions, [LAYER], LAYER + 1)
    queries = torch.cat([question.queries[0, HEAD] for question in encoded_questions])
    return {
        "keys": torch.cat(keys),
        "queries": rotary.rotate(queries, torch.tensor(OFFSET), encoder.theta.cpu()),
    }


def stretched(keys: torch.Tensor, size: int) -> torch.Tensor:
    """Return ``size`` float32 keys, the given ones or, beyond them, noisy copies."""
    if size <= len(keys):
        return keys[:size].float()
    draw = torch.Generator().manual_seed(0)
    more = keys[torch.randint(len(keys), (size - len(keys),), generator=draw)].float()
    noise = torch.randn(more.shape, generator=draw) * keys.float().std(0) / 10
    return torch.cat([keys.float(), more + noise])


def ours(keys: torch.Tensor, limit: int, shares: Sequence[float]) -> list[Method]:
    """Return our index over float32 and bfloat16 keys, once for each share of buckets probed."""
    methods = []
    for name, dtype in (("lsh", torch.float32), ("lsh bfloat16", torch.bfloat16)):
        index = LSHIndex()
        kept = keys.to(dtype)
        seconds, _ = timed(partial(index.insert, torch.arange(len(keys)), kept))
        size = sum(part.nbytes for part in index.state().values()) / len(keys)
        for share in shares if index.buckets else shares[:1]:
            methods.append(_probing(name, index, max(int(share * index.buckets), 1), limit, seconds, size))
    return methods


def _probing(name: str, index: LSHIndex, probes: int, limit: int, seconds: float, size: float) -> Method:
    last = [0.0]

    def search(queries: torch.Tensor) -> torch.Tensor:
        hits = index.query(queries, limit, probes=probes)
        last[0] = hits.touched
        return hits.ids

    setting = f"{probes:,} of {index.buckets:,} buckets" if index.buckets else "exact at this size"
    return Method(name, setting, search, seconds, size, lambda: last[0], index.buckets / len(index))


def faiss_methods(keys: torch.Tensor, limit: int, threads: int, hnsw_limit: int) -> list[Method]:
    """Return FAISS' exact, LSH, IVF and HNSW indexes at several settings; none if FAISS is not installed."""
    try:
        import faiss  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        Console(stderr=True).print("FAISS is left out; to compare with it: pip install faiss-cpu")
        return []
    faiss.omp_set_num_threads(threads)
    dim, inner, rows = keys.shape[1], faiss.METRIC_INNER_PRODUCT, keys.numpy()
    statistics_of_lists: Any = faiss.cvar
    lists = max(int(2 * len(keys) ** 0.5), 1)

    def built(index: Any) -> tuple[Any, float, float]:
        def fill() -> None:
            index.train(rows)
            index.add(rows)

        seconds, _ = timed(fill)
        return index, seconds, len(faiss.serialize_index(index)) / len(keys)

    def method(
        name: str, setting: str, made: tuple[Any, float, float], share: float | None, **knobs: Any
    ) -> Method:
        index, seconds, size = made

        def search(queries: torch.Tensor) -> torch.Tensor:
            for knob, value in knobs.items():
                holder = index.hnsw if knob == "efSearch" else index
                setattr(holder, knob, value)
            return torch.from_numpy(index.search(queries.numpy(), limit)[1])

        return Method(name, setting, search, seconds, size, lambda: share)

    methods = [method("FAISS IndexFlatIP", "", built(faiss.IndexFlatIP(dim)), 1.0)]
    coded = built(faiss.IndexRefineFlat(faiss.IndexLSH(dim, 4 * dim)))
    for factor in (10, 40):
        share = min(factor * limit / len(keys), 1.0)
        setting = f"{4 * dim} bits, rerank {factor}k; scans all codes"
        methods.append(method("FAISS IndexLSH", setting, coded, share, k_factor=factor))
    inverted = built(faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, inner))
    for share in (0.01, 0.03, 0.1):
        probed = max(int(share * lists), 1)
        searched = method("FAISS IndexIVFFlat", f"{probed} of {lists} lists", inverted, None, nprobe=probed)
        searched.touched, searched.means = (
            _scanned(statistics_of_lists.indexIVF_stats, len(keys)),
            lists / len(keys),
        )
        methods.append(searched)
    if len(keys) <= hnsw_limit:
        graph = faiss.IndexHNSWFlat(dim, 32, inner)
        graph.hnsw.efConstruction = 80
        made = built(graph)
        methods += [
            method("FAISS IndexHNSWFlat", f"M 32, ef {ef}", made, None, efSearch=ef) for ef in (64, 256, 1024)
        ]
    return methods


def _scanned(statistic: Any, keys: int) -> Callable[[], float | None]:
    """Read FAISS' own count of compared keys since the last reading."""

    def share() -> float | None:
        result = statistic.ndis / max(statistic.nq, 1) / keys
        statistic.reset()
        return float(result)

    return share


def measure(
    methods: Sequence[Method], batches: Sequence[torch.Tensor], truth: Sequence[torch.Tensor]
) -> None:
    """Search every batch with every method, in turns, so that other work on the machine slows all of them alike."""
    for method in methods:
        method.search(batches[0])
        method.touched()
    for batch, nearest in zip(batches, truth, strict=True):
        for method in methods:
            seconds, ids = timed(partial(method.search, batch))
            method.times.append(seconds)
            method.recalls.append(float((nearest[:, :, None] == ids[:, None, :]).any(2).float().mean()))
            share = method.touched()
            if share is not None:
                method.shares.append(share)


def compare(keys: torch.Tensor, queries: torch.Tensor, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all methods on the same keys and queries; mark the fastest of each that reaches the wanted recall."""
    limit, count = arguments.limit, arguments.batch
    keys = keys - keys.mean(0)
    all_batches = torch.split(queries[: len(queries) // count * count], count)
    batches = all_batches[:: max(len(all_batches) // arguments.repeats, 1)][: arguments.repeats]
    exact = Method(
        "exact",
        "matmul and topk",
        lambda q: (q @ keys.T).topk(limit).indices,
        0.0,
        4.0 * keys.shape[1],
        lambda: 1.0,
    )
    methods = [exact, *ours(keys, limit, arguments.shares)]
    methods += faiss_methods(keys, limit, arguments.threads, arguments.hnsw_limit)
    measure(methods, batches, [exact.search(batch) for batch in batches])
    rows = [method.row(len(keys)) for method in methods]
    for name in {row["method"] for row in rows}:
        enough = [row for row in rows if row["method"] == name and row["recall"] >= arguments.recall]
        for row in sorted(enough, key=lambda row: float(row["milliseconds"]))[:1]:
            row["cheapest"] = True
    return rows


def show(rows: Sequence[dict[str, Any]], title: str, limit: int, batch: int) -> None:
    """Print the rows as a table."""
    table = Table(title=title)
    for heading in ("keys", "method", "setting"):
        table.add_column(heading)
    for heading in (
        f"recall@{limit}",
        "touched",
        "compared",
        f"ms a batch of {batch}",
        "build s",
        "bytes a key",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        shares = ("-" if row[name] is None else f"{row[name]:.1%}" for name in ("touched", "compared"))
        mark = " *" if row.get("cheapest") else ""
        cells = (f"{row['recall']:.3f}", *shares, f"{row['milliseconds']:.1f}", f"{row['build_seconds']:.1f}")
        table.add_row(
            f"{row['keys']:,}", row["method"] + mark, row["setting"], *cells, f"{row['bytes_a_key']:.0f}"
        )
    Console(width=150).print(table)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--keys", type=Path, help="safetensors with keys and queries")
    source.add_argument("--text", type=Path, nargs="+", help="files to read with the default model")
    parser.add_argument("--save", type=Path, help="keep what was captured from --text")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument(
        "--batch", type=int, default=15, help="queries searched together: a question's tokens"
    )
    parser.add_argument("--repeats", type=int, default=21, help="batches searched by every method")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.003, 0.006, 0.01, 0.02, 0.04], help="of buckets probed"
    )
    parser.add_argument("--recall", type=float, default=0.9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--hnsw-limit", type=int, default=100_000, help="no graph above: a million takes over 5 minutes"
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.keys:
        parts = load_file(arguments.keys)
    else:
        parts = capture([path.read_text(encoding="utf-8") for path in arguments.text])
        if arguments.save:
            save_file({name: part.contiguous() for name, part in parts.items()}, arguments.save)
    rows = []
    for size in arguments.sizes:
        rows += compare(stretched(parts["keys"], size), parts["queries"].float(), arguments)
    given = len(parts["keys"])
    noisy = f"; sizes above {given:,} hold noisy copies" if max(arguments.sizes) > given else ""
    title = f"{given:,} keys of {arguments.keys or 'the default model'}, {arguments.threads} threads{noisy}"
    if arguments.output == "json":
        print(json.dumps({"title": title, "rows": rows}, indent=1))
    else:
        show(rows, title, arguments.limit, arguments.batch)


if __name__ == "__main__":
    main()
