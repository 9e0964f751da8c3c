"""Turn-level evidence recall@k on LoCoMo through the backend contract, BM25 and chance beside it.

    python benchmarks/locomo.py PATH/locomo10.json --backend rag

Maharana et al., LoCoMo (arXiv 2402.17753). Each conversation is one user's journal; a turn's text is
what was said plus the image's caption; a question is searched in its own conversation only. recall@k
is the share of a question's evidence turns among the first k, averaged over the questions of
categories 1 to 4 (5 is adversarial and has no answer). Abstention is switched off.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from memagent.agent.home import Home
from memagent.agent.journal.records import NewTurn
from memagent.agent.memory import Memory, open_journal
from memagent.backends.rag.lexical import LexicalIndex
from memagent.backends.rag.passages import split

KS = (1, 5, 10, 20)


@dataclass(frozen=True)
class Question:
    text: str
    category: int
    evidence: frozenset[int]


def turns_of(conversation: dict[str, Any]) -> Iterator[tuple[str, NewTurn]]:
    """Yield each turn with its dialogue id."""
    names = [key for key in conversation if re.fullmatch(r"session_\d+", key)]
    for name in sorted(names, key=lambda key: int(key.removeprefix("session_"))):
        when = datetime.strptime(conversation[f"{name}_date_time"], "%I:%M %p on %d %B, %Y").replace(
            tzinfo=UTC
        )
        for turn in conversation[name]:
            caption = turn.get("blip_caption")
            text = f"{turn['text']} [{caption}]" if caption else turn["text"]
            role = "user" if turn["speaker"] == conversation["speaker_a"] else "assistant"
            yield turn["dia_id"], NewTurn(name, role, text, speaker=turn["speaker"], created_at=when)


def questions_of(sample: dict[str, Any], seq_of: dict[str, int]) -> Iterator[Question]:
    """Yield the answerable questions that have evidence; ids that name no turn are dropped."""
    for row in sample["qa"]:
        found = re.findall(r"D\d+:\d+", " ".join(row["evidence"]))
        evidence = frozenset(seq_of[one] for one in found if one in seq_of)
        if row["category"] in (1, 2, 3, 4) and evidence:
            yield Question(row["question"], row["category"], evidence)


def recall_at(ranked: list[int], evidence: frozenset[int], k: int) -> float:
    return len(evidence.intersection(ranked[:k])) / len(evidence)


def measure(path: Path, backend: str) -> dict[str, dict[int | str, list[float]]]:
    """Return recall values by method, then by k and by category (at 10)."""
    home_folder = tempfile.TemporaryDirectory()
    home = Home(Path(home_folder.name), Home.from_environment().models)
    scores: dict[str, dict[int | str, list[float]]] = {}
    settings = (
        {"abstain": "false"} if backend == "rag" else {"threshold": "0"} if backend == "in_memory" else {}
    )
    for sample in track(
        json.loads(path.read_text(encoding="utf-8")),
        description="conversations",
        console=Console(stderr=True),
    ):
        user = sample["sample_id"]
        rows = list(turns_of(sample["conversation"]))
        with open_journal(home, user) as journal:
            stored = journal.extend([turn for _, turn in rows])
        seq_of = {dialogue_id: turn.seq for (dialogue_id, _), turn in zip(rows, stored, strict=True)}
        words = LexicalIndex(Path(home_folder.name) / f"{user}.sqlite3")
        words.add([passage for turn in stored for passage in split(turn)])
        with Memory.open(home, user, backend, settings) as memory:
            for question in questions_of(sample, seq_of):
                found = [item.seqs[0] for item in memory.recall(question.text, limit=max(KS))]
                by_words = list(
                    dict.fromkeys(int(key.split(":")[0]) for key in words.search(question.text, 50))
                )
                for name, ranked in ((backend, found), ("BM25 with context", by_words)):
                    for k in KS:
                        scores.setdefault(name, {}).setdefault(k, []).append(
                            recall_at(ranked, question.evidence, k)
                        )
                    scores[name].setdefault(f"category {question.category}", []).append(
                        recall_at(ranked, question.evidence, 10)
                    )
                for k in KS:
                    scores.setdefault("chance", {}).setdefault(k, []).append(min(1.0, k / len(stored)))
        words.close()
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="LoCoMo in its official format")
    parser.add_argument("--backend", default="rag")
    arguments = parser.parse_args()
    scores = measure(arguments.path, arguments.backend)
    table = Table(title=f"LoCoMo, turn level, {len(scores['chance'][1])} questions of categories 1-4")
    columns: list[int | str] = [*KS, *(f"category {n}" for n in (1, 2, 3, 4))]
    table.add_column("method")
    for column in columns:
        table.add_column(f"recall@{column}" if isinstance(column, int) else f"{column} @10", justify="right")
    for name, values in scores.items():
        table.add_row(
            name,
            *(f"{statistics.mean(values[column]):.3f}" if column in values else "" for column in columns),
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
