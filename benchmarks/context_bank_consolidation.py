"""What a full context bank still recalls: merging against eviction, at several capacities, on LoCoMo.

    python benchmarks/context_bank_consolidation.py locomo.json --output rows.jsonl --plot consolidation.png
    python benchmarks/context_bank_consolidation.py locomo.json --policies merge lru --shares 0.5 0.1 --seeds 1
    python benchmarks/context_bank_consolidation.py locomo.json --output rows.jsonl --conversations conv-43 conv-47

The turns of a conversation are added to a bank in their order. A seeded half of the questions is asked while the talk is read,
each at the end of a session drawn from those after its evidence; the five best turns at that moment are noted as used, by a reply
with a seq of its own. After the last turn the other half measures recall@10: the share of a question's evidence turns among the ten
best, without abstention. A share is the capacity over the number of vectors of the whole conversation; `full` never merges.

Each turn and question is encoded once. A row that the file of --output holds is not computed again, unless the weights changed. Without --output, rows are
printed; the summary is printed after them. Its intervals (95 %) resample conversations, and questions within them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from context_bank_summary import LIMIT, Row, plot, summary
from context_bank_talks import CONSOLE, Asked, Codec, KnownTable, Talk, talks
from rich.progress import Progress

from memagent.agent.evaluation.datasets import LOADERS
from memagent.agent.evaluation.metrics import recall_at
from memagent.backends.context_bank import ranking
from memagent.backends.context_bank.bank import ContextBank
from memagent.backends.context_bank.config import ContextBankConfig
from memagent.backends.context_bank.consolidation import ConsolidationRule
from memagent.backends.context_bank.weights import FOLDER
from memagent.backends.shared.linear import weight_vector

ONE = {"alpha": 1.0, "beta": 1.0, "gamma": 1.0}
NONE = {"alpha": 0.0, "beta": 0.0, "gamma": 0.0}
POLICIES: dict[str, dict[str, Any]] = {
    "full": {},
    "merge": {"policy": "merge"} | ONE,
    "plain": {"policy": "plain"},
    "balanced": {"policy": "balanced"},
    "random": {"policy": "random"},
    "fifo": {"policy": "fifo"},
    "lru": {"policy": "lru"},
    "without frequency": {"policy": "merge"} | ONE | {"alpha": 0.0},
    "without attention": {"policy": "merge"} | ONE | {"beta": 0.0},
    "without recency": {"policy": "merge"} | ONE | {"gamma": 0.0},
    "frequency only": {"policy": "merge"} | NONE | {"alpha": 1.0},
    "attention only": {"policy": "merge"} | NONE | {"beta": 1.0},
    "recency only": {"policy": "merge"} | NONE | {"gamma": 1.0},
    "merge by sum": {"policy": "merge", "merge": "sum"} | ONE,
    "all components": {"policy": "merge", "key_dim": 0} | ONE,
}
"""Settings of each policy. The last one compares vectors by all of their components, not by their keys."""
USED = 5


@dataclass
class Reading:
    """A bank that reads a talk.

    Args:
        codec: of its latents.
        talk: the conversation.
        bank: an empty bank.
    """

    codec: Codec
    talk: Talk
    bank: ContextBank

    def __post_init__(self) -> None:
        self._places: dict[int, int] = {}
        self._newest = 0

    def read(self, place: int) -> None:
        """Add a turn by its place in the talk, from 1."""
        self._newest += 1
        self._places[self._newest] = place
        self.bank.add(self._newest, self.talk.latents[place - 1])

    def ask(self, questions: Sequence[Asked]) -> None:
        """Note the best turns for each question as used by a reply."""
        used = [ranked[:USED] for ranked in self.ranked(questions)]
        seqs = {place: seq for seq, place in self._places.items()}
        for places in used:
            self._newest += 1
            self.bank.note_use(self._newest, [seqs[place] for place in places])

    def table(self) -> KnownTable:
        """Return the turns of the bank, with their places in the talk as seqs: replies do not part neighbours."""
        table = ranking.TurnTable.of(self.bank, self.codec)
        places = np.array([self._places[seq] for seq in table.seqs.tolist()], np.int64)
        likely = self.talk.known.of(self.bank.vectors, table.whole)
        return KnownTable(**{**vars(table), "seqs": places}, likely=likely)

    def ranked(self, questions: Sequence[Asked]) -> list[list[int]]:
        """Return the places of the ten best turns for each question."""
        if not questions:
            return []
        table = self.table()
        weights = weight_vector(ranking.WEIGHTS, "turn", ranking.FEATURES)
        result = []
        for question in questions:
            words = [[np.array([number])] for number in question.words]
            scores = ranking.compare(table, question.key, words).features @ weights
            result.append(table.seqs[np.argsort(-scores, kind="stable")[:LIMIT]].tolist())
        return result

    def unmerged(self) -> dict[int, float]:
        """Return the share of the original vectors of each turn, by its place, that are stored and not merged."""
        sources, whole = self.bank.sources, self.bank.counts == 1
        kept: Counter[int] = Counter()
        for vector, (start, end) in enumerate(zip(sources.indptr[:-1], sources.indptr[1:], strict=True)):
            if whole[vector]:
                kept.update(sources.seqs[start:end].tolist())
        return {self._places[seq]: kept[seq] / size for seq, size in self.bank.turns.items()}


def measured(codec: Codec, talk: Talk, policy: str, share: float, seed: int) -> Row:
    """Return what a bank recalls of a talk."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(talk.questions)).tolist()
    asked_at: dict[int, list[Asked]] = defaultdict(list)
    for number in order[: len(order) // 2]:
        question = talk.questions[number]
        asked_at[
            int(draw.choice([end for end in talk.session_ends if end >= max(question.evidence)]))
        ].append(question)
    others = [talk.questions[number] for number in order[len(order) // 2 :]]
    capacity = max(1, round(share * talk.size))
    rule = rule_of(codec, policy, seed)
    # No block is full if each may have as many vectors as the whole talk.
    bank = ContextBank(
        codec.size,
        capacity * len(talk.latents) if policy == "full" else capacity,
        ContextBankConfig().precision,
        rule,
    )
    reading = Reading(codec, talk, bank)
    for place in range(1, len(talk.latents) + 1):
        reading.read(place)
        reading.ask(asked_at[place])
    ranked = reading.ranked(talk.questions)
    by_id = {question.id: places for question, places in zip(talk.questions, ranked, strict=True)}
    unmerged = reading.unmerged()
    stored = {reading._places[seq] for seq in np.unique(bank.sources.seqs).tolist()}
    return {
        "conversation": talk.name,
        "policy": policy,
        "share": share,
        "seed": seed,
        "capacity": capacity,
        "vectors": len(bank),
        "removals": bank.removals,
        "turns_stored": round(len(stored) / len(talk.latents), 4),
        "turns_found": round(len({place for places in ranked for place in places}) / len(talk.latents), 4),
        "questions": [
            {
                "id": question.id,
                "category": question.category,
                "rare": question.rare,
                "recall": round(recall_at(by_id[question.id], question.evidence, LIMIT), 4),
                "unmerged": round(float(np.mean([unmerged[place] for place in question.evidence])), 4),
                "stored": round(len(question.evidence & stored) / len(question.evidence), 4),
            }
            for question in others
        ],
    }


def rule_of(codec: Codec, policy: str, seed: int) -> ConsolidationRule:
    """Return the rule of a policy."""
    settings = dict(POLICIES[policy])
    key_dim = settings.pop("key_dim", codec.key_size)
    return replace(ContextBankConfig(**settings).rule(codec.key_size, seed), key_dim=key_dim)


def weights_digest() -> str:
    """Return what rows depend on besides their settings: the autoencoder's weights and those of the ranking."""
    files = sorted([*FOLDER.glob("*.safetensors"), ranking.WEIGHTS])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("locomo", type=Path)
    parser.add_argument("--policies", choices=tuple(POLICIES), nargs="+", default=list(POLICIES))
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.1, 0.05])
    parser.add_argument("--seeds", type=int, default=3, help="how many halves of the questions")
    parser.add_argument("--conversations", nargs="+", help="names; all without it")
    parser.add_argument("--output", type=Path, help="file of rows, which is continued")
    parser.add_argument("--plot", type=Path, help="file of the picture; needs the extra memagent[plot]")
    arguments = parser.parse_args()
    rows: list[Row] = []
    if arguments.output and arguments.output.exists():
        rows = [json.loads(line) for line in arguments.output.read_text(encoding="utf-8").splitlines()]
    weights = weights_digest()
    rows = [row for row in rows if row["weights"] == weights]
    done = {(row["conversation"], row["policy"], row["share"], row["seed"]) for row in rows}
    names = arguments.conversations or [case.id for case in LOADERS["locomo"](arguments.locomo)]
    todo = [
        (name, policy, share, seed)
        for seed in range(arguments.seeds)
        for policy in arguments.policies
        for share in (arguments.shares if policy != "full" else [1.0])
        for name in names
        if (name, policy, share, seed) not in done
    ]
    if todo:
        codec, encoded = talks(arguments.locomo, names)
        by_name = {talk.name: talk for talk in encoded}
        with Progress(console=CONSOLE) as progress:
            task = progress.add_task("rows", total=len(todo))
            for name, policy, share, seed in todo:
                progress.update(task, description=f"{name}, {policy}, {share:.0%}")
                rows.append(measured(codec, by_name[name], policy, share, seed) | {"weights": weights})
                if arguments.output:
                    with arguments.output.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
                else:
                    print(json.dumps(rows[-1]), flush=True)
                progress.advance(task)
    figures = list(summary([row for row in rows if row["conversation"] in names]))
    for figure in figures:
        print(json.dumps(figure))
    if arguments.plot:
        plot(figures, arguments.plot)


if __name__ == "__main__":
    main()
