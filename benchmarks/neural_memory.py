"""Measure speed and memory of the neural memory against titans-pytorch on the same weights, in one run.

    pip install titans-pytorch==0.5.5
    python benchmarks/neural_memory.py
    python benchmarks/neural_memory.py --chunks 16 --length 8192 --output json

Every version is one layer: norm, projections, gates, memory, output projection. memagent's layers take all but the memory from
titans-pytorch. The first version of each computes the same; the table's title has the largest difference:

- titans-pytorch: one step of momentum and forgetting a chunk, gradients at the chunk's first weights (batch_size =
  chunk size), or refreshed every 128 tokens, or never: at the initial weights, whatever has been learnt since.
- memagent, a step a chunk: the same as the first.
- memagent, a step a token: the paper's rule, gradients at the chunk's first weights. titans-pytorch has no such mode.

Each repeat times all versions in turn. Figures are medians of tokens per second. `x same` and `x best` are medians of the
repeats' ratios to titans-pytorch's first mode and to its fastest mode. Memory is the largest growth during a pass of the
process's resident memory, or of the allocated memory on a GPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import pad

from memagent.kernels.neural_memory import NeuralMemoryState, neural_memory

SAME = "titans-pytorch, a chunk"
PASSES = ("forward", "forward and backward")


@dataclass
class Version:
    name: str
    layer: Any
    run: Callable[[Tensor], Tensor]
    update: str | None = None
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PASSES})
    peak: dict[str, int] = field(default_factory=dict)


def layer_with_our_memory(layer: Any, update: str, sequence: Tensor) -> Tensor:
    """Run titans-pytorch's layer with memagent's memory instead of its own."""
    chunk, heads = layer.store_chunk_size, layer.heads
    length = sequence.shape[1]
    query_inputs, stored_inputs = layer.retrieve_norm(sequence), layer.store_norm(sequence)

    def split(projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], heads, -1).transpose(1, 2)

    def per_chunk(linear: Any) -> Tensor:
        """Return gates from the mean of a chunk's tokens; an incomplete chunk needs none."""
        complete = length // chunk * chunk
        pooled = (
            stored_inputs[:, :complete].view(len(stored_inputs), -1, chunk, stored_inputs.shape[2]).mean(2)
        )
        gate = linear(pooled).sigmoid().repeat_interleave(chunk, 1)
        return pad(gate, (0, 0, 0, length - complete)).transpose(1, 2)

    def per_token(linear: Any) -> Tensor:
        gate: Tensor = linear(stored_inputs).sigmoid().transpose(1, 2)
        return gate

    value = split(layer.to_values(stored_inputs))
    theta = per_token(layer.to_adaptive_step[0]) / value.shape[-1]  # titans-pytorch's loss is a mean
    gate = per_chunk if update == "chunk" else per_token
    output, _ = neural_memory(
        split(layer.to_queries(query_inputs)),
        split(layer.to_keys(stored_inputs)),
        value,
        theta,
        gate(layer.to_momentum[0]),
        gate(layer.to_decay_factor[0]),
        NeuralMemoryState.initial(list(layer.memory_model_parameters), len(sequence)),
        chunk_size=chunk,
        update=update,
    )
    if layer.retrieve_gate is not None:
        output = output * layer.retrieve_gate(query_inputs)
    combined: Tensor = layer.combine_heads(output.transpose(1, 2).flatten(2))
    return combined


def titans_pytorch_layer(layer: Any, sequence: Tensor) -> Tensor:
    output: Tensor = layer(sequence)[0]
    return output


def versions(chunk: int, arguments: argparse.Namespace) -> list[Version]:
    try:
        from titans_pytorch import NeuralMemory  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        sys.exit(f"{error}. To compare with titans-pytorch: pip install titans-pytorch==0.5.5")

    def layer(batch_size: int | None) -> Any:
        torch.manual_seed(0)
        return NeuralMemory(
            dim=arguments.dim,
            heads=arguments.heads,
            dim_head=arguments.dim // arguments.heads,
            chunk_size=chunk,
            batch_size=batch_size,
            mem_model_norm_add_residual=False,
            default_model_kwargs={"depth": arguments.depth, "expansion_factor": arguments.expansion},
        ).to(arguments.device)

    modes: list[tuple[str, int | None]] = [(SAME, chunk)]
    modes += [("titans-pytorch, 128 tokens", 128)] if chunk < 128 and 128 % chunk == 0 else []
    modes += [("titans-pytorch, never", None)]
    rows = []
    for name, batch_size in modes:
        torch_layer = layer(batch_size)
        rows.append(Version(name, torch_layer, partial(titans_pytorch_layer, torch_layer)))
    for update in ("chunk", "token"):
        torch_layer = layer(chunk)
        rows.append(
            Version(
                f"memagent, a step a {update}",
                torch_layer,
                partial(layer_with_our_memory, torch_layer, update),
                update,
            )
        )
    return rows


def run_pass(version: Version, kind: str, sequence: Tensor) -> None:
    if kind == "forward":
        with torch.no_grad():
            version.run(sequence)
    else:
        version.run(sequence).square().mean().backward()  # type: ignore[no-untyped-call]
        version.layer.zero_grad(set_to_none=True)


def timed(version: Version, kind: str, sequence: Tensor) -> float:
    if sequence.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    run_pass(version, kind, sequence)
    if sequence.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peaks(version: Version, chunk: int, sequence: Tensor) -> dict[str, int]:
    """Return the largest growth of memory during each pass, in bytes: of the device, or of a process of its own."""
    if not sequence.is_cuda:
        # Forked before anything ran here: memory that a process freed but kept would hide the growth.
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        child = context.Process(
            target=lambda: results.put(_growth(version, chunk, sequence, _resident)), daemon=True
        )
        child.start()
        growth: dict[str, int] = results.get()
        child.join()
        return growth
    return _growth(version, chunk, sequence, torch.cuda.max_memory_allocated)


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _growth(version: Version, chunk: int, sequence: Tensor, peak_bytes: Callable[[], int]) -> dict[str, int]:
    for kind in PASSES:
        run_pass(version, kind, sequence[:, :chunk])
    before, growth = peak_bytes(), {}
    for kind in PASSES:
        run_pass(version, kind, sequence)
        growth[kind] = peak_bytes() - before
    return growth


def flops(update: str, chunk: int, arguments: argparse.Namespace) -> int:
    """Return the floating-point operations of a forward pass of memagent's memory, without the projections."""
    head = arguments.dim // arguments.heads
    hidden = int(head * arguments.expansion)
    widths = [head, *[hidden] * (arguments.depth - 1), head]
    sizes = [a * b for a, b in pairwise(widths)]
    surprise = 4 * sum(sizes) - 2 * sizes[0]
    block = min(chunk, 64)
    within = 2 * block * sum(a + b for a, b in pairwise(widths))
    token = surprise + (4 * sum(sizes) if update == "chunk" else 8 * sum(sizes) + within)
    return int(token * arguments.heads * arguments.batch * arguments.length)


def measure(
    chunk: int, table: list[Version], sequence: Tensor, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    with torch.no_grad():
        expected = table[0].run(sequence)
        same = next(version for version in table if version.update == "chunk").run(sequence)
        difference = float((same - expected).abs().max() / expected.abs().max())
    for version in table:
        for kind in PASSES:
            run_pass(version, kind, sequence)
    for _ in range(arguments.repeats):
        for kind in PASSES:
            for version in table:
                version.seconds[kind].append(timed(version, kind, sequence))
    references = [version for version in table if version.update is None]
    rows = []
    for version in table:
        for kind in PASSES:
            best = min(references, key=lambda reference: statistics.median(reference.seconds[kind]))
            seconds = statistics.median(version.seconds[kind])
            row = {
                "chunk": chunk,
                "version": version.name,
                "pass": kind,
                "tokens_a_second": arguments.batch * arguments.length / seconds,
                "times_same": _ratio(table[0], version, kind),
                "times_best": _ratio(best, version, kind),
                "best": best.name,
                "peak_bytes": version.peak[kind],
                "difference": difference,
            }
            if arguments.peak_tflops and version.update and kind == "forward":
                used = flops(version.update, chunk, arguments) / seconds
                row["share_of_peak"] = used / (arguments.peak_tflops * 1e12)
            rows.append(row)
    return rows


def _ratio(slow: Version, fast: Version, kind: str) -> float:
    pairs = zip(slow.seconds[kind], fast.seconds[kind], strict=True)
    return statistics.median(a / b for a, b in pairs)


def show(rows: list[dict[str, Any]], title: str) -> None:
    table = Table(title=title)
    for heading in ("chunk", "version"):
        table.add_column(heading)
    for kind in PASSES:
        for heading in (f"{kind}: tokens/s", "x same", "x best", "peak MB"):
            table.add_column(heading, justify="right")
    for at in range(0, len(rows), len(PASSES)):
        cells = []
        for row in rows[at : at + len(PASSES)]:
            share = f" ({row['share_of_peak']:.1%} of peak)" if "share_of_peak" in row else ""
            cells += [f"{row['tokens_a_second']:,.0f}{share}", f"{row['times_same']:.1f}"]
            cells += [f"{row['times_best']:.1f}", f"{row['peak_bytes'] / 1e6:,.0f}"]
        table.add_row(str(rows[at]["chunk"]), rows[at]["version"], *cells)
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunks", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--length", type=int, default=2048, help="tokens per sequence")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--depth", type=int, default=2, help="layers of the memory")
    parser.add_argument(
        "--expansion", type=float, default=4.0, help="hidden size of the memory, in sizes of a head"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--peak-tflops",
        type=float,
        help="peak of the device in float32: adds the share of it that memagent reaches",
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    sequence = torch.randn(arguments.batch, arguments.length, arguments.dim, device=arguments.device)
    tables = {chunk: versions(chunk, arguments) for chunk in arguments.chunks}
    for chunk, table in tables.items():
        for version in table:
            version.peak = peaks(version, chunk, sequence)
    rows = [row for chunk, table in tables.items() for row in measure(chunk, table, sequence, arguments)]
    difference = max(row["difference"] for row in rows)
    title = (
        f"{arguments.batch} x {arguments.length:,} tokens, {arguments.heads} heads of "
        f"{arguments.dim // arguments.heads}, {arguments.depth} layers, {arguments.device}, "
        f"{arguments.threads} threads, float32; a step a chunk differs by {difference:.0e} of the largest number"
    )
    if arguments.output == "json":
        print(json.dumps({"title": title, "rows": rows}, indent=1))
    else:
        show(rows, title)


if __name__ == "__main__":
    main()
