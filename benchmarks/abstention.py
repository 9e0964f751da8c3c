"""How often a memory recalls nothing when nothing bears on a message, and keeps the fact when one does.

    python benchmarks/abstention.py rag
    python benchmarks/abstention.py bm25
    python benchmarks/abstention.py memo

The calibration set (data/abstention.json) is memagent's own: 82 personal facts with a plain and a
paraphrased question each, 277 other statements, and 165 messages that nothing stored answers, in six
classes. Prints, for a grid of thresholds, the share of unanswerable messages that get any hit and the
share of questions whose fact is among the first five. The default settings are marked.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from memagent.agent.home import Home
from memagent.agent.journal import Journal, NewTurn
from memagent.agent.models.embedding import load_embedder
from memagent.backends.bm25 import Bm25, Bm25Config
from memagent.backends.memo import Memo, MemoConfig
from memagent.backends.protocol import Embedder, MemoryBackend, Resources
from memagent.backends.rag import Rag, RagConfig
from memagent.backends.records import Turn

DATA = Path(__file__).parent / "data" / "abstention.json"
CONFIGS: dict[str, list[Any]] = {
    "rag": [RagConfig(threshold=threshold) for threshold in (0.06, 0.08, 0.1, 0.12, 0.14, 0.2)],
    "bm25": [Bm25Config(threshold=threshold) for threshold in (0.06, 0.1, 0.14, 0.2)],
    "memo": [MemoConfig(threshold=threshold) for threshold in (0.1, 0.14, 0.2)],
}
BACKENDS: dict[str, type[MemoryBackend]] = {"rag": Rag, "bm25": Bm25, "memo": Memo}


@cache
def embedder() -> Embedder:
    return load_embedder(Home.from_environment().models, notify=print)


def calibration_turns(folder: Path, data: dict[str, Any]) -> list[Turn]:
    """Return the facts and statements of the calibration set as turns of a journal."""
    rows = [("user", fact["text"]) for fact in data["facts"]]
    rows += [("user", text) for text in data["statements"]]
    rows += [("assistant", text) for text in data["assistant_statements"]]
    with Journal(folder / "journal.sqlite3", "calibration") as journal:
        return journal.extend(
            [NewTurn(f"s{number % 40}", role, text) for number, (role, text) in enumerate(rows)]
        )


def filled_backend(name: str, config: Any, folder: Path, turns: list[Turn]) -> MemoryBackend:
    """Return a backend with this configuration that has remembered the turns."""
    workspace = Path(tempfile.mkdtemp(dir=folder))
    backend = BACKENDS[name](config, Resources(workspace, make_embedder=embedder))
    backend.remember(turns)
    return backend


def percentage(outcomes: Iterable[bool]) -> float:
    listed = list(outcomes)
    return 100 * sum(listed) / len(listed)


def rates(backend: MemoryBackend, data: dict[str, Any], turns: list[Turn]) -> list[float]:
    """Return the percentages of one row: hits by class of unanswerable messages, hits in all, plain and paraphrased facts kept."""
    seqs = {turn.text: turn.seq for turn in turns}
    hits = [[bool(backend.recall(text)) for text in texts] for texts in data["unanswerable"].values()]
    kept = [
        percentage(
            any(seqs[fact["text"]] in hit.seqs for hit in backend.recall(fact["questions"][kind]))
            for fact in data["facts"]
        )
        for kind in (0, 1)
    ]
    return [*map(percentage, hits), percentage(hit for row in hits for hit in row), *kept]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backend", choices=tuple(CONFIGS))
    name = parser.parse_args().backend
    data = json.loads(DATA.read_text(encoding="utf-8"))
    table = Table(
        title=f"Abstention of {name}: % of unanswerable messages with any hit; % of questions with their fact in 5"
    )
    for heading in ("threshold", *data["unanswerable"], "all", "plain kept", "paraphrase kept"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        turns = calibration_turns(Path(folder), data)
        for config in track(CONFIGS[name], console=Console(stderr=True)):
            backend = filled_backend(name, config, Path(folder), turns)
            table.add_row(
                f"{config.threshold:.2f}",
                *(f"{rate:.0f}" for rate in rates(backend, data, turns)),
                style="bold" if config == type(config)() else "",
            )
            backend.close()
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
