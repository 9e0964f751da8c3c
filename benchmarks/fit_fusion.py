"""How much each memory counts where several are opened as one: fit the weights of their fusion, and report them.

    python benchmarks/fit_fusion.py locomo.json --rankings rankings.json          # measure (resumable), fit, report
    python benchmarks/fit_fusion.py locomo.json --rankings rankings.json --write  # and write the weights

Every memory is asked the answerable questions of LoCoMo (``LOCOMO`` is a file of it) with abstention off. The weights are
those of the highest mean recall@10 over all pairs of memories on the conversations of ``fit_data.FIT``; the report is on the
others: recall@10 of each memory, of each pair with equal and with fitted weights, and of a choice between both memories that
knows the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from statistics import mean
from typing import Any

from fit_data import Part, locomo
from rich.progress import track

from memagent.agent.home import Home
from memagent.agent.journal import NewTurn
from memagent.agent.memory import open_journal
from memagent.agent.memory.composition import open_memory
from memagent.agent.memory.fusion import WEIGHTS, fuse_hits
from memagent.agent.models.catalogue import DEFAULT_MODEL
from memagent.agent.models.models import Models
from memagent.backends.records import Hit

BACKENDS = ("rag", "bm25", "rope_map", "titans", "memo")
CANDIDATES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4)
LIMIT = 20
Rankings = dict[str, dict[str, list[list[list[int]]]]]
"""By memory and conversation: of each question the seqs of each hit, best first."""


def measure(parts: Sequence[Part], names: Sequence[str], file: Path) -> Rankings:
    """Return what each memory recalls, as far as ``file`` does not hold it already; ``file`` follows."""
    rankings: Rankings = json.loads(file.read_text()) if file.exists() else {}
    models = Models.shared(Home.from_environment().models)
    missing = [(name, part) for name in names for part in parts if part.name not in rankings.get(name, {})]
    for name, part in track(missing, "recalling"):
        with tempfile.TemporaryDirectory() as folder:
            home = Home(Path(folder), Home.from_environment().models)
            with open_journal(home, "user") as journal:
                journal.extend(
                    [
                        NewTurn(turn.session, turn.role, turn.text, turn.speaker, turn.created_at)
                        for turn in part.turns
                    ]
                )
            settings: Mapping[str, str] = {"abstain": "false"}
            with open_memory(home, models, "user", name, settings, model=DEFAULT_MODEL) as memory:
                found = [
                    [list(item.seqs) for item in memory.recall(question.text, limit=LIMIT)]
                    for question in answerable(part)
                ]
        rankings.setdefault(name, {})[part.name] = found
        written = file.with_suffix(".part")
        written.write_text(json.dumps(rankings))
        os.replace(written, file)
    return rankings


def answerable(part: Part) -> list[Any]:
    return [question for question in part.questions if question.relevant]


def recalls(
    parts: Sequence[Part], rankings: Rankings, names: Sequence[str], weights: Mapping[str, float]
) -> list[list[float]]:
    """Return recall@10 of memories opened as one, by conversation and question."""
    return [
        [
            recall_at_10(fused(names, part, place, rankings, weights), question.relevant)
            for place, question in enumerate(answerable(part))
        ]
        for part in parts
    ]


def fused(
    names: Sequence[str], part: Part, place: int, rankings: Rankings, weights: Mapping[str, float]
) -> list[Sequence[int]]:
    hits = {name: [Hit(tuple(seqs), 0.0, "") for seqs in rankings[name][part.name][place]] for name in names}
    return [hit.seqs for hit in fuse_hits(hits, LIMIT, weights)]


def recall_at_10(ranking: Sequence[Sequence[int]], relevant: frozenset[int]) -> float:
    """Return the share of the relevant turns within ten ranks; a hit of several turns takes as many."""
    first = list(dict.fromkeys(seq for seqs in ranking for seq in seqs))[:10]
    return len(relevant.intersection(first)) / len(relevant)


def fit(parts: Sequence[Part], rankings: Rankings, names: Sequence[str]) -> dict[str, float]:
    """Return the weights with the highest mean recall@10 over all pairs; the first memory has weight 1."""
    pairs = list(combinations(names, 2))

    def score(weights: Mapping[str, float]) -> float:
        return mean(
            value
            for pair in pairs
            for questions in recalls(parts, rankings, pair, weights)
            for value in questions
        )

    return max(grid(names), key=score)


def grid(names: Sequence[str]) -> Iterator[dict[str, float]]:
    for values in product(CANDIDATES, repeat=len(names) - 1):
        yield {names[0]: 1.0, **dict(zip(names[1:], values, strict=True))}


def report(
    parts: Sequence[Part], rankings: Rankings, names: Sequence[str], weights: Mapping[str, float]
) -> None:
    def figures(values: Sequence[Sequence[float]]) -> str:
        return "  ".join(f"{mean(one):.3f}" for one in values)

    print(f"{'recall@10':38}  {'  '.join(part.name for part in parts)}")
    single = {name: recalls(parts, rankings, [name], {}) for name in names}
    for name in names:
        print(f"{name:38}  {figures(single[name])}")
    for pair in combinations(names, 2):
        best = [
            [max(values) for values in zip(*of_part, strict=True)]
            for of_part in zip(*(single[name] for name in pair), strict=True)
        ]
        print(f"{'+'.join(pair) + ', equal weights':38}  {figures(recalls(parts, rankings, pair, {}))}")
        print(f"{'+'.join(pair) + ', fitted':38}  {figures(recalls(parts, rankings, pair, weights))}")
        print(f"{'better of both, question by question':38}  {figures(best)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("locomo", type=Path)
    parser.add_argument("--rankings", type=Path, required=True, help="what was recalled; measured if missing")
    parser.add_argument("--backend", nargs="+", default=list(BACKENDS))
    parser.add_argument("--write", action="store_true", help=f"write {WEIGHTS.name}")
    arguments = parser.parse_args()
    parts = list(locomo(arguments.locomo))
    rankings = measure(parts, arguments.backend, arguments.rankings)
    for_fit, held_out = ([part for part in parts if part.fit is kind] for kind in (True, False))
    weights = fit(for_fit, rankings, arguments.backend)
    print(f"weights, fitted on {', '.join(part.name for part in for_fit)}: {weights}")
    report(held_out, rankings, arguments.backend, weights)
    if arguments.write:
        WEIGHTS.write_text(json.dumps(weights, indent=1) + "\n")


if __name__ == "__main__":
    main()
