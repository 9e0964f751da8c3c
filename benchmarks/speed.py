"""Speed of what people wait for, each against a reference measured in the same run: medians and ratios.

    python benchmarks/speed.py help                     start-up of the command, against a bare interpreter
    python benchmarks/speed.py remember                 adding a turn at 10,000 stored turns, against an empty memory
    python benchmarks/speed.py recall --sizes 1000 10000 100000     against scanning everything in numpy and Python
    python benchmarks/speed.py recall --backend bm25 --hashing      the same of another memory
    python benchmarks/speed.py first-token              with memory against without, on the default model

Statements are generated from a seed: persons, things, places and numbers, some fifteen words each.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from memagent.agent.engine.agent import Agent
from memagent.agent.engine.events import TurnEnded
from memagent.agent.home import Home
from memagent.agent.journal import NewTurn
from memagent.agent.memory import Memory, open_journal
from memagent.agent.models.embedding import HashingEmbedder, load_embedder
from memagent.agent.models.loader import load_chat_model
from memagent.backends.protocol import Embedder, Vectors
from memagent.backends.shared.words import content_words
from memagent.cli.rendering.progress import track

NAMES = [
    "Ana",
    "Bruno",
    "Carla",
    "Dmitri",
    "Eun",
    "Farid",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Kavya",
    "Liam",
    "Mira",
    "Noor",
    "Otto",
    "Petra",
    "Quim",
    "Rosa",
    "Sven",
    "Tove",
]
THINGS = [
    "bicycle",
    "kayak",
    "violin",
    "garden",
    "oven",
    "camera",
    "clock",
    "lamp",
    "tent",
    "boat",
    "loom",
    "kite",
    "drum",
    "map",
    "rug",
    "ladder",
    "scarf",
    "stove",
    "desk",
    "bell",
]
PLACES = [
    "Tavira",
    "Ghent",
    "Oslo",
    "Lviv",
    "Porto",
    "Turin",
    "Graz",
    "Cork",
    "Brno",
    "Kaunas",
    "Malmo",
    "Nantes",
    "Split",
    "Varna",
    "Ronda",
    "Evora",
    "Arhus",
    "Sibiu",
    "Pecs",
    "Bergen",
]


def statements(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [
        f"My friend {draw.choice(NAMES)} bought {draw.randint(2, 900)} {draw.choice(THINGS)}s in {draw.choice(PLACES)} "
        f"and gave the {draw.choice(THINGS)} to {draw.choice(NAMES)}, item {place}."
        for place in range(count)
    ]


def questions(count: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return [f"What did my friend {draw.choice(NAMES)} buy in {draw.choice(PLACES)}?" for _ in range(count)]


class CountingEmbedder:
    """An embedder that counts its calls: to show that remembering calls no other model."""

    def __init__(self, inner: Embedder) -> None:
        self.name, self.digest, self.dimension, self.max_tokens = (
            inner.name,
            inner.digest,
            inner.dimension,
            inner.max_tokens,
        )
        self.calls = 0
        self._inner = inner

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.calls += 1
        return self._inner.embed(texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        self.calls += 1
        return self._inner.embed_queries(texts)


class NaiveScan:
    """The reference of `rag`: it scans every vector and every word list for every question."""

    def __init__(self, embedder: Embedder, texts: Sequence[str], vectors: Vectors) -> None:
        self._embedder = embedder
        self._vectors = vectors
        self._words = [Counter(text.casefold().split()) for text in texts]
        self._length = statistics.mean(sum(words.values()) for words in self._words)

    def recall(self, query: str, limit: int) -> list[int]:
        cosines = self._vectors @ self._embedder.embed([query])[0]
        query_words = content_words(query)
        df = {word: sum(word in words for words in self._words) for word in query_words}
        bm25 = [self._bm25(words, query_words, df) for words in self._words]
        ranks: Counter[int] = Counter()
        for scores in (cosines, np.array(bm25)):
            for rank, place in enumerate(np.argsort(-scores)[:100]):
                ranks[int(place)] += 1 / (11 + rank)  # type: ignore[assignment]
        return [place for place, _ in ranks.most_common(limit)]

    def _bm25(self, words: Counter[str], query_words: Sequence[str], df: dict[str, int]) -> float:
        size = sum(words.values()) / self._length
        return sum(
            math.log(1 + (len(self._words) - df[word] + 0.5) / (df[word] + 0.5))
            * words[word]
            * 2.2
            / (words[word] + 1.2 * (0.25 + 0.75 * size))
            for word in query_words
        )


def timed(action: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def reopen(home: Home, user: str, embedder: Embedder, backend: str) -> None:
    Memory.open(home, user, backend, {"abstain": "false"}, make_embedder=lambda: embedder).close()


@contextmanager
def memory_of(count: int, embedder: Embedder, backend: str) -> Iterator[Memory]:
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), Home.from_environment().models)
        with open_journal(home, "ana") as journal:
            for start in range(0, count, 5000):
                texts = statements(count)[start : start + 5000]
                journal.extend(
                    [NewTurn(f"s{(start + place) // 50}", "user", text) for place, text in enumerate(texts)]
                )
        with Memory.open(
            home, "ana", backend, {"abstain": "false"}, make_embedder=lambda: embedder, progress=track
        ) as memory:
            yield memory


def measure_help() -> None:
    def run(*command: str) -> float:
        return timed(lambda: subprocess.run(command, capture_output=True, check=True))

    script = str(Path(sys.executable).with_name("memagent"))
    pairs = [(run(script, "--help"), run(sys.executable, "-c", "pass")) for _ in range(15)]
    ours, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
    import_times = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--help"], capture_output=True, text=True, check=True
    )
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in import_times.stderr.splitlines()}
    heavy = sorted(loaded & {"torch", "transformers", "chromadb", "sqlalchemy", "numpy", "pydantic"})
    print(
        f"memagent --help: median {ours:.3f} s, {ours / bare:.1f} times a bare interpreter ({bare:.3f} s); heavy imports: {heavy or 'none'}"
    )


def measure_remember(embedder: Embedder, backend: str, stored: int, repeats: int) -> None:
    counting = CountingEmbedder(embedder)
    medians = {}
    for count in (0, stored):
        with memory_of(count, counting, backend) as memory:
            fresh = statements(repeats, seed=2)
            memory.remember("new", "user", "Warm up.")
            before = counting.calls
            times = [timed(memory.remember, "new", "user", text) for text in fresh]
            medians[count] = statistics.median(times)
            calls = (counting.calls - before) / repeats
            bare = statistics.median(timed(embedder.embed, [text, text]) for text in fresh)
            print(
                f"remember at {count:,} turns: median {1000 * medians[count]:.1f} ms; {calls:.0f} embedder call, no other model; "
                f"embedding alone {1000 * bare:.1f} ms"
            )
    print(f"ratio {stored:,} / 0 stored turns: {medians[stored] / medians[0]:.2f}")


def measure_recall(embedder: Embedder, backend: str, sizes: Sequence[int], repeats: int) -> None:
    table = Table(title="recall, medians of one question; limit 10")
    for heading in (
        "turns",
        f"{backend} ms",
        "of it embedding ms",
        "scan ms",
        f"scan / {backend}",
        f"{backend} / {backend} at first size",
        "open s",
        "MB stored",
    ):
        table.add_column(heading, justify="right")
    first_size = 0.0
    for size in sizes:
        with memory_of(size, embedder, backend) as memory:
            memory.checkpoint()
            queries = questions(repeats)
            memory.recall(queries[0], limit=10)
            texts = statements(size)
            hashing = HashingEmbedder()
            scan = NaiveScan(hashing, texts, hashing.embed(texts))
            pairs = [
                (
                    timed(partial(memory.recall, limit=10), text),
                    timed(embedder.embed, [text]),
                    timed(scan.recall, text, 10) if place < 5 else None,
                )
                for place, text in enumerate(queries)
            ]
            ours = statistics.median(pair[0] for pair in pairs)
            embedding = statistics.median(pair[1] for pair in pairs)
            naive = statistics.median(pair[2] for pair in pairs if pair[2] is not None) + embedding
            stored = memory.stats().bytes_on_disk / 1e6
            home, user = memory.home, memory.user
            memory.close()
            opening = timed(reopen, home, user, embedder, backend)
        first_size = first_size or ours
        cells = (
            1000 * ours,
            1000 * embedding,
            1000 * naive,
            naive / ours,
            ours / first_size,
            opening,
            stored,
        )
        table.add_row(f"{size:,}", *(f"{cell:.2f}" if cell < 10 else f"{cell:,.0f}" for cell in cells))
    Console(width=120).print(table)


def measure_first_token(repeats: int) -> None:
    models = Home.from_environment().models
    model = load_chat_model("qwen2.5-coder-0.5b", models, notify=print)
    times: dict[str, list[float]] = {"rag": [], "none": []}
    prompts: dict[str, list[int]] = {"rag": [], "none": []}
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), models)
        with open_journal(home, "ana") as journal:
            journal.extend([NewTurn("facts", "user", text) for text in statements(1000)])
        agents = {name: Agent.open(user="ana", backend=name, model=model, home=home) for name in times}
        for place, question in enumerate(questions(repeats + 1)):
            for name, agent in agents.items():
                ended = next(
                    event
                    for event in agent.conversation(f"{name}-{place}").send(question)
                    if isinstance(event, TurnEnded)
                )
                if place:  # the first loads the embedder
                    times[name].append(ended.seconds.first_token)
                    prompts[name].append(ended.usage.prompt_tokens)
        for agent in agents.values():
            agent.close()
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(
            f"{name}: first token after {value:.2f} s (median of {repeats}), prompt of {statistics.median(prompts[name]):.0f} tokens"
        )
    print(f"ratio with / without memory: {medians['rag'] / medians['none']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("help", "remember", "recall", "first-token"))
    parser.add_argument(
        "--backend",
        choices=("rag", "bm25", "memo", "context_bank"),
        default="rag",
        help="of remember and recall",
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument(
        "--hashing",
        action="store_true",
        help="embed by word hashing instead of MiniLM: fast to fill, worst for HNSW",
    )
    arguments = parser.parse_args()
    embedder = (
        HashingEmbedder()
        if arguments.hashing
        else load_embedder(Home.from_environment().models, notify=print)
    )
    if arguments.what == "help":
        measure_help()
    elif arguments.what == "remember":
        measure_remember(embedder, arguments.backend, max(arguments.sizes), arguments.repeats)
    elif arguments.what == "recall":
        measure_recall(embedder, arguments.backend, arguments.sizes, arguments.repeats)
    else:
        measure_first_token(arguments.repeats)


if __name__ == "__main__":
    main()
