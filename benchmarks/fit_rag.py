"""Fit what `rag` learns: which messages need memory, how turns are ranked, and which of them are relevant.

    python benchmarks/fit_rag.py locomo.json            # fits, writes the weights, and reports
    python benchmarks/fit_rag.py locomo.json --report   # reports only

Fitted on: the conversations conv-26, conv-30 and conv-41 of LoCoMo, the set in data/abstention.json, and the even places of
data/languages.yaml and data/assistant.yaml, with generated codes. Reported on: conv-43 and conv-47, the odd places, and other
codes. Needs LoCoMo's file and the default embedder; takes some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fit_data import FIT, Part, Question, abstention, assistant_part, languages, literal_part, locomo
from rich.console import Console
from rich.progress import track

from memagent.agent.home import Home
from memagent.agent.models.embedding import load_embedder
from memagent.backends.protocol import Embedder, Resources
from memagent.backends.rag import Rag, RagConfig, ranking, relevance
from memagent.backends.rag.backend import _MIN_JUDGED
from memagent.backends.rag.judging import collect_evidence
from memagent.backends.rag.search import find_candidates
from memagent.backends.shared import memory_need
from memagent.backends.shared.joined_embedder import with_multilingual
from memagent.backends.shared.linear import write_classifier, write_named_weights
from memagent.backends.shared.multilingual import MultilingualEmbedder

NOTE = "Fitted by benchmarks/fit_rag.py, which names the data."
# Weights of the groups of data. Questions about people's real talk are many, and hard to tell from those without answers.
GROUPS = {"locomo": 0.3, "abstention": 1.0, "languages": 1.0, "literals": 0.3, "assistant": 0.3}
PENALTIES = {"need": 3e-4, "ranking": 0.01, "relevance": 1e-3}
CONSOLE = Console(stderr=True)


@cache
def embedder() -> Embedder:
    """The embedder of `rag`, as it joins it."""
    return with_multilingual(load_embedder(Home.from_environment().models, notify=CONSOLE.print))


def fill(part: Part, folder: Path) -> None:
    part.rag = Rag(RagConfig(), Resources(Path(tempfile.mkdtemp(dir=folder)), make_embedder=embedder))
    for start in range(0, len(part.turns), 100):
        part.rag.remember(part.turns[start : start + 100])


def minimise(loss: Any, size: int) -> torch.Tensor:
    """Return the weights of a convex loss by L-BFGS."""
    weights = torch.zeros(size, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value: torch.Tensor = loss(weights)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(step)  # type: ignore[no-untyped-call]
    return weights.detach()


# Which messages need memory


def need_messages(parts: Sequence[Part]) -> tuple[list[str], list[str]]:
    """Return the messages of the fitting half that need memory, and those that do not."""
    needing, others = [], []
    for part in parts:
        if part.fit:
            questions = part.questions[::3] if part.name in FIT else part.questions
            needing += [item.text for item in questions if item.kind != "needs none"]
            others += [item.text for item in questions if item.kind == "needs none"]
    return list(dict.fromkeys(needing)), list(dict.fromkeys(others))


def fit_need(parts: Sequence[Part]) -> None:
    reported = [
        item.text for part in parts if not part.fit and part.name[:5] != "conv-" for item in part.questions
    ]
    held_out = MultilingualEmbedder().embed(reported)
    classes = []
    for texts in need_messages(parts):
        vectors = MultilingualEmbedder().embed(texts)
        # What the report asks nearly in the same words is left out.
        classes.append(torch.from_numpy(vectors[(vectors @ held_out.T).max(axis=1) < 0.9]))
    inputs = torch.cat(classes)
    targets = torch.cat([torch.ones(len(classes[0])), torch.zeros(len(classes[1]))])
    balance = torch.cat([torch.full((len(part),), 0.5 / len(part)) for part in classes])

    def loss(weights: torch.Tensor) -> torch.Tensor:
        logits = inputs @ weights[:-1] + weights[-1]
        errors = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (errors * balance).sum() + PENALTIES["need"] * weights[:-1].square().sum()

    weights = minimise(loss, inputs.shape[1] + 1).numpy()
    write_classifier(memory_need.WEIGHTS, weights[:-1], weights[-1])


# Ranking


def ranking_rows(part: Part) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield features and labels of the candidates of each question whose evidence is among them."""
    for question in part.questions:
        if question.relevant:
            vector = embedder().embed_queries([question.text])[0]
            candidates = find_candidates(question.text, vector, part.rag._full_text, part.rag._vectors, 100)
            labels = torch.tensor([float(item.seq in question.relevant) for item in candidates])
            if 0 < labels.sum() < len(labels):
                yield torch.from_numpy(ranking.features(question.text, candidates)), labels


def fit_ranking(parts: Sequence[Part]) -> dict[str, float]:
    rows = {
        part.name: list(ranking_rows(part)) for part in track(parts, "ranking", console=CONSOLE) if part.fit
    }
    stacked = torch.cat([features for listed in rows.values() for features, _ in listed])
    scale = stacked.std(dim=0) + 1e-6

    def loss(weights: torch.Tensor) -> torch.Tensor:
        total = PENALTIES["ranking"] * weights.square().sum()
        count = sum(map(len, rows.values()))
        for listed in rows.values():
            for features, labels in listed:
                log_shares = (features / scale @ weights).log_softmax(dim=0)
                total = total - (log_shares * labels).sum() / labels.sum() / count
        return total

    weights = minimise(loss, len(ranking.FEATURES)) / scale
    return dict(zip(ranking.FEATURES, map(float, weights), strict=True))


# Relevance


@dataclass
class Judgement:
    """What a question's best turns are judged by, and which of the three best answer it."""

    group: str
    question: str
    evidence: list[relevance.Evidence]
    labels: list[float]


def judgements(parts: Sequence[Part]) -> Iterator[Judgement]:
    for part in track([part for part in parts if part.fit], "relevance", console=CONSOLE):
        group = "locomo" if part.name in FIT else part.name if part.name in GROUPS else "languages"
        for question in part.questions:
            vector = embedder().embed_queries([question.text])[0]
            candidates = find_candidates(question.text, vector, part.rag._full_text, part.rag._vectors, 100)
            ranked = ranking.rank(question.text, candidates, asks=True)[:_MIN_JUDGED]
            labels = [float(bool(question.relevant.intersection(item.seqs))) for item in ranked[:3]]
            if ranked:
                evidence, _ = collect_evidence(question.text, ranked, part.rag._full_text)
                yield Judgement(group, question.text, evidence, labels)


def relevance_rows(judgement: Judgement, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and labels of the three best turns of a question, for an embedder."""
    evidence = judgement.evidence
    if name == relevance.ANY_EMBEDDER:
        evidence = [replace(item, cosine=item.multilingual_cosine) for item in evidence]
    need = memory_need.memory_need(judgement.question)
    features = relevance.features(judgement.question, need, evidence)
    return torch.from_numpy(features[:3]), torch.tensor(judgement.labels)


def fit_relevance(rows: Sequence[Judgement], name: str) -> dict[str, float]:
    groups: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {group: [] for group in GROUPS}
    for judgement in rows:
        groups[judgement.group].append(relevance_rows(judgement, name))
    blocks = {
        group: (torch.cat([features for features, _ in listed]), torch.cat([labels for _, labels in listed]))
        for group, listed in groups.items()
    }
    scale = torch.cat([features for features, _ in blocks.values()]).std(dim=0).clamp_min(1e-6)
    scale[-1] = 1.0

    def loss(weights: torch.Tensor) -> torch.Tensor:
        total = PENALTIES["relevance"] * weights[:-1].square().sum()
        for group, (features, labels) in blocks.items():
            error = torch.nn.functional.binary_cross_entropy_with_logits(features / scale @ weights, labels)
            total = total + GROUPS[group] * error / sum(GROUPS.values())
        return total

    weights = minimise(loss, len(relevance.FEATURES)) / scale
    return dict(zip(relevance.FEATURES, map(float, weights), strict=True))


# Report


def report(parts: Sequence[Part]) -> list[dict[str, object]]:
    """Return for each part recall@10 without abstention, and with it the shares that are right by kind of question."""
    table = []
    for part in track(parts, "report", console=CONSOLE):
        row: dict[str, object] = {"part": part.name, "fit": part.fit}
        shares: dict[str, list[float]] = {}
        for question in part.questions:
            found = {seq for hit in part.rag.recall(question.text) for seq in hit.seqs}
            if question.relevant:
                shares.setdefault("recall@10", []).append(recall_at_10(part, question))
                shares.setdefault("kept of 5" if question.kind == "answerable" else question.kind, []).append(
                    float(bool(found & question.relevant))
                )
            else:
                shares.setdefault(f"silent: {question.kind}", []).append(float(not found))
        table.append(row | {name: round(float(np.mean(values)), 3) for name, values in shares.items()})
    return table


def recall_at_10(part: Part, question: Question) -> float:
    part.rag.config = RagConfig(abstain=False)
    ranked = [seq for hit in part.rag.recall(question.text, limit=10) for seq in hit.seqs][:10]
    part.rag.config = RagConfig()
    return len(question.relevant.intersection(ranked)) / len(question.relevant)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("locomo", type=Path)
    parser.add_argument("--report", action="store_true", help="fit nothing")
    parser.add_argument("--only", choices=("need", "ranking", "relevance"), nargs="+", default=None)
    arguments = parser.parse_args()
    stages = () if arguments.report else arguments.only or ("need", "ranking", "relevance")
    parts = [*locomo(arguments.locomo), abstention()]
    for half in (True, False):
        parts += [*languages(fit=half), literal_part(fit=half), assistant_part(fit=half)]
    with tempfile.TemporaryDirectory() as folder:
        for part in track(parts, "reading", console=CONSOLE):
            fill(part, Path(folder))
        if "need" in stages:
            fit_need(parts)
        if "ranking" in stages:
            write_named_weights(ranking.WEIGHTS, {ranking.WEIGHT_SET: fit_ranking(parts)}, NOTE)
        if "relevance" in stages:
            names = (embedder().name, relevance.ANY_EMBEDDER)
            rows = list(judgements(parts))
            sets = {name: fit_relevance(rows, name) for name in names}
            write_named_weights(relevance.WEIGHTS, sets, NOTE)
        for row in report(parts):
            print(json.dumps(row))


if __name__ == "__main__":
    main()
