"""How often `rag` recalls nothing when nothing bears on a message, and keeps the fact when one does.

    python benchmarks/abstention.py

The calibration set (data/abstention.json) is memagent's own: 82 personal facts with a plain and a
paraphrased question each, 277 other statements, and 165 messages that nothing stored answers, in six
classes. Prints, for a grid of thresholds, the share of unanswerable messages that get any hit and the
share of questions whose fact is among the first five. The defaults of RagConfig are marked.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from memagent.agent.home import Home
from memagent.agent.journal import Journal, NewTurn
from memagent.agent.models.embedding import load_embedder
from memagent.backends.protocol import Resources
from memagent.backends.rag.backend import Rag, RagConfig

DATA = Path(__file__).parent / "data" / "abstention.json"
PERSONAL = (0.30, 0.36, 0.42)
OTHER = (0.55, 0.60)


def fill(folder: Path, data: dict[str, Any]) -> Rag:
    rows = [("user", fact["text"]) for fact in data["facts"]] + [
        ("user", text) for text in data["statements"]
    ]
    rows += [("assistant", text) for text in data["assistant_statements"]]
    with Journal(folder / "journal.sqlite3", "calibration") as journal:
        turns = journal.extend(
            [NewTurn(f"s{place % 40}", role, text) for place, (role, text) in enumerate(rows)]
        )
    (folder / "work").mkdir()
    embedder = load_embedder(Home.from_environment().models, notify=print)
    rag = Rag(RagConfig(), Resources(folder / "work", make_embedder=lambda: embedder))
    rag.remember(turns)
    return rag


def share(values: Iterable[bool]) -> float:
    outcomes = list(values)
    return 100 * sum(outcomes) / len(outcomes)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    data = json.loads(DATA.read_text(encoding="utf-8"))
    classes = list(data["unanswerable"])
    table = Table(
        title="Abstention of rag: % of unanswerable messages with any hit; % of questions with their fact in 5"
    )
    for heading in ("personal", "other", *classes, "all", "plain kept", "paraphrase kept"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        rag = fill(Path(folder), data)
        for personal, other in track(list(product(PERSONAL, OTHER)), console=Console(stderr=True)):
            rag.config = replace(RagConfig(), personal=personal, other=other)
            hits = {name: [bool(rag.recall(text)) for text in data["unanswerable"][name]] for name in classes}
            kept = [
                share(
                    any(item.text == fact["text"] for item in rag.recall(fact["questions"][kind]))
                    for fact in data["facts"]
                )
                for kind in (0, 1)
            ]
            everything = [hit for row in hits.values() for hit in row]
            cells = [share(row) for row in hits.values()] + [share(everything), *kept]
            chosen = (personal, other) == (RagConfig().personal, RagConfig().other)
            table.add_row(
                f"{personal:.2f}",
                f"{other:.2f}",
                *(f"{cell:.0f}" for cell in cells),
                style="bold" if chosen else "",
            )
        rag.close()
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
