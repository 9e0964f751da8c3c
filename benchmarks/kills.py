"""Kill a writer again and again; count what was acknowledged and lost (it must be nothing).

    python benchmarks/kills.py --kills 200 [--backend rag]

A child process opens the memory and adds turns, printing each turn's number only after `remember`
returned. It is killed with SIGKILL at a random moment: while it loads, writes the journal, embeds,
or stores a checkpoint. At the end every printed turn must be in the journal, and recall must find the
last one without any manual step. The child is forked from a parent that has already imported what it
needs, so that a kill takes a second or two instead of ten.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track

from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.models.embedding import HashingEmbedder, load_embedder
from memagent.backends.protocol import Embedder


def write_for_ever(home: Home, backend: str, embedder: Embedder, acknowledgements: int, round_: int) -> None:
    with Memory.open(home, "ana", backend, make_embedder=lambda: embedder) as memory:
        for place in range(1_000_000):
            turn = memory.remember(
                f"round-{round_}",
                "user",
                f"In round {round_} the bird number {place} was called K{round_}x{place}.",
            )
            os.write(acknowledgements, f"{turn.seq} K{round_}x{place}\n".encode())
            if place % 17 == 16:
                memory.checkpoint()


def one_kill(home: Home, backend: str, embedder: Embedder, round_: int, seconds: float) -> list[str]:
    """Fork a writer, kill it after ``seconds``, and return the lines it acknowledged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            write_for_ever(home, backend, embedder, writing, round_)
        finally:
            os._exit(1)
    os.close(writing)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading) as lines:
        return [line.strip() for line in lines if line.endswith("\n")]


def run(kills: int, backend: str, seed: int, *, embedder: Embedder, longest: float) -> tuple[int, int, int]:
    """Return acknowledged turns, lost turns, and notices of rebuilt checkpoints."""
    random_ = random.Random(seed)
    acknowledged: list[str] = []
    notices: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), Home.from_environment().models)
        for round_ in track(range(kills), description="kills", console=Console(stderr=True)):
            acknowledged += one_kill(home, backend, embedder, round_, random_.uniform(0.02, longest))
        with Memory.open(
            home, "ana", backend, make_embedder=lambda: embedder, notify=notices.append
        ) as memory:
            texts = {turn.seq: turn.text for turn in memory.journal.turns()}
            lost = sum(line.split()[1] not in texts.get(int(line.split()[0]), "") for line in acknowledged)
            wrong = memory.journal.audit()
            sample = random_.sample(acknowledged, min(20, len(acknowledged)))
            for line in sample:
                name = line.split()[1]
                found = memory.recall(f"Which bird was called {name}?", limit=5)
                if backend != "none" and not any(name in item.text for item in found):
                    raise SystemExit(
                        f"{name} was acknowledged but is not recalled: {[item.text for item in found]}"
                    )
    if wrong:
        raise SystemExit(f"The journal is damaged: {wrong}")
    return len(acknowledged), lost, len(notices)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--backend", default="rag")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=2.0, help="seconds a writer lives at most")
    parser.add_argument("--hashing", action="store_true", help="embed by word hashing instead of MiniLM")
    arguments = parser.parse_args()
    embedder = (
        HashingEmbedder()
        if arguments.hashing
        else load_embedder(Home.from_environment().models, notify=print)
    )
    import chromadb  # noqa: F401 - before the fork

    if not arguments.hashing:
        import torch

        torch.set_num_threads(1)  # a forked child must not wait for the parent's thread pool
        embedder.embed(["warm"])
    acknowledged, lost, rebuilt = run(
        arguments.kills, arguments.backend, arguments.seed, embedder=embedder, longest=arguments.longest
    )
    print(
        f"{arguments.kills} kills, {acknowledged} turns acknowledged, {lost} lost, {rebuilt} checkpoints rebuilt"
    )
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
