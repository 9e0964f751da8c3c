"""Fit what recall learns: which messages need memory, how `rag` ranks turns, and which of those found are relevant.

    python benchmarks/fit_recall.py locomo.json                           # fits, writes the weights, and reports
    python benchmarks/fit_recall.py locomo.json --report                  # reports only
    python benchmarks/fit_recall.py locomo.json --memory bm25 titans      # these two only

What is relevant is fitted for each memory that searches by itself: their scores differ.

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
from fit_context_bank_ranking import fit_context_bank_ranking
from fit_data import FIT, Part, Question, abstention, assistant_part, languages, literal_part, locomo, several
from fit_linear import fit_listwise, minimise
from fit_memo import fit_centre, fit_memo_ranking
from rich.console import Console
from rich.progress import track

from memagent.agent.home import Home
from memagent.agent.models.embedding import load_embedder
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.backends.bm25 import Bm25, Bm25Config
from memagent.backends.bm25.backend import RELEVANCE as BM25_RELEVANCE
from memagent.backends.context_bank import ContextBankConfig, ContextBankMemory
from memagent.backends.context_bank.backend import KEYS
from memagent.backends.context_bank.backend import RELEVANCE as CONTEXT_BANK_RELEVANCE
from memagent.backends.context_bank.results import search_hits_of as context_bank_search_hits
from memagent.backends.memo import Memo, MemoConfig
from memagent.backends.memo.backend import RELEVANCE as MEMO_RELEVANCE
from memagent.backends.memo.results import search_hits_of
from memagent.backends.protocol import Embedder, LocalModel, MemoryBackend, Resources
from memagent.backends.rag import Rag, RagConfig, ranking
from memagent.backends.rag.backend import RELEVANCE as RAG_RELEVANCE
from memagent.backends.rag.search import find_candidates
from memagent.backends.shared import memory_need, relevance
from memagent.backends.shared.joined_embedder import with_multilingual
from memagent.backends.shared.judging import (
    ANOTHER_EMBEDDER,
    MIN_JUDGED,
    SearchHit,
    collect_evidence,
)
from memagent.backends.shared.linear import write_named_weights, write_tensors
from memagent.backends.shared.multilingual import MultilingualEmbedder
from memagent.backends.shared.words import content_words, query_words
from memagent.backends.titans import Titans, TitansMemoryConfig
from memagent.backends.titans.backend import RELEVANCE as TITANS_RELEVANCE

NOTE = "Fitted by benchmarks/fit_recall.py, which names the data."
# Weights of the groups of data. Questions about people's real talk are many, and hard to tell from those without answers.
GROUPS = {"locomo": 0.3, "abstention": 1.0, "languages": 1.0, "literals": 0.3, "assistant": 0.3}
PENALTIES = {"need": 3e-4, "relevance": 1e-3}
CONSOLE = Console(stderr=True)
WEIGHTS = {
    "rag": RAG_RELEVANCE,
    "bm25": BM25_RELEVANCE,
    "titans": TITANS_RELEVANCE,
    "memo": MEMO_RELEVANCE,
    "context_bank": CONTEXT_BANK_RELEVANCE,
}
MEMORIES: dict[str, tuple[type[MemoryBackend], type[Any]]] = {
    "rag": (Rag, RagConfig),
    "bm25": (Bm25, Bm25Config),
    "titans": (Titans, TitansMemoryConfig),
    "memo": (Memo, MemoConfig),
    "context_bank": (ContextBankMemory, ContextBankConfig),
}


@cache
def base_embedder() -> Embedder:
    return load_embedder(Home.from_environment().models, notify=CONSOLE.print)


@cache
def local_model() -> LocalModel:
    models = Home.from_environment().models
    return as_local(load_chat_model("qwen2.5-coder-0.5b", models, notify=CONSOLE.print))


@cache
def embedder() -> Embedder:
    """The embedder of `rag`, as it joins it."""
    return with_multilingual(base_embedder())


def fill(part: Part, names: Sequence[str], folder: Path) -> None:
    for name in names:
        backend, config = MEMORIES[name]
        workspace = Path(tempfile.mkdtemp(dir=folder))
        part.memories[name] = backend(
            config(), Resources(workspace, make_embedder=base_embedder, make_model=local_model)
        )
        for start in range(0, len(part.turns), 100):
            part.memories[name].remember(part.turns[start : start + 100])


def ranked_by_rag(rag: Rag, question: str) -> list[ranking.Ranked]:
    vector = embedder().embed_queries([question])[0]
    candidates = find_candidates(question, vector, rag._full_text, rag._vectors, 100)
    return ranking.rank(question, candidates, asks=True)[:MIN_JUDGED]


def found_by(memory: MemoryBackend, question: str) -> list[tuple[SearchHit, tuple[int, ...]]]:
    """Return the best turns that a memory finds for a question, as it judges them, with the seqs of each."""
    if isinstance(memory, Rag):
        ranked = ranked_by_rag(memory, question)
        return list(zip(memory._search_hits(question, ranked), [item.seqs for item in ranked], strict=True))
    if isinstance(memory, Bm25):
        scores = memory._index.search(query_words(question), MIN_JUDGED)
        found = memory._search_hits(scores, memory._index.coverage(content_words(question), list(scores)))
    elif isinstance(memory, Memo):
        texts = memory._ranked(question)[:MIN_JUDGED]
        return [
            (item, (text.segment.seq,))
            for item, text in zip(search_hits_of(question, texts), texts, strict=True)
        ]
    elif isinstance(memory, ContextBankMemory):
        turns = memory._search.ranked(question, (), MIN_JUDGED)[:MIN_JUDGED]
        return list(zip(context_bank_search_hits(turns), [(turn.seq,) for turn in turns], strict=True))
    elif isinstance(memory, Titans):
        embedding = memory._embed(question)
        nearest = memory._nearest(question, embedding, MIN_JUDGED)
        found = memory._search_hits(question, embedding, [index for index, _ in nearest])
    else:
        raise TypeError(f"{memory.name} is none of {', '.join(MEMORIES)}")
    return [(item, (item.order[1],)) for item in found]


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
    write_tensors(memory_need.WEIGHTS, {"weight": weights[:-1], "bias": weights[-1:]})


# Ranking


def ranking_rows(part: Part) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield features and labels of the candidates of each question whose evidence is among them."""
    for question in part.questions:
        if question.relevant:
            rag = part.memories["rag"]
            assert isinstance(rag, Rag)
            vector = embedder().embed_queries([question.text])[0]
            candidates = find_candidates(question.text, vector, rag._full_text, rag._vectors, 100)
            labels = torch.tensor([float(item.seq in question.relevant) for item in candidates])
            if 0 < labels.sum() < len(labels):
                yield torch.from_numpy(ranking.features(question.text, candidates)), labels


def fit_ranking(parts: Sequence[Part]) -> dict[str, float]:
    fitting = [part for part in parts if part.fit]
    rows = [row for part in track(fitting, "ranking", console=CONSOLE) for row in ranking_rows(part)]
    return fit_listwise(rows, ranking.FEATURES)


# Relevance


@dataclass
class Judgement:
    """What a question's best turns are judged by, and which of the three best answer it."""

    group: str
    question: str
    evidence: list[relevance.Evidence]
    labels: list[float]


def judgements(parts: Sequence[Part], memory: str) -> Iterator[Judgement]:
    for part in track([part for part in parts if part.fit], f"relevance of {memory}", console=CONSOLE):
        group = "locomo" if part.name in FIT else part.name if part.name in GROUPS else "languages"
        for question in part.questions:
            found = found_by(part.memories[memory], question.text)
            labels = [float(bool(question.relevant.intersection(seqs))) for _, seqs in found[:3]]
            if found:
                evidence = collect_evidence(question.text, [item for item, _ in found])
                yield Judgement(group, question.text, evidence, labels)


def relevance_rows(judgement: Judgement, weight_set: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and labels of the three best turns of a question, for a set of weights."""
    evidence = judgement.evidence
    if weight_set == ANOTHER_EMBEDDER:
        evidence = [replace(item, cosine=item.multilingual_cosine) for item in evidence]
    need = memory_need.memory_need(judgement.question)
    features = relevance.features(judgement.question, need, evidence)
    return torch.from_numpy(features[:3]), torch.tensor(judgement.labels)


def fit_relevance(rows: Sequence[Judgement], weight_set: str) -> dict[str, float]:
    groups: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {group: [] for group in GROUPS}
    for judgement in rows:
        groups[judgement.group].append(relevance_rows(judgement, weight_set))
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


def weight_sets(name: str) -> list[str]:
    """Return the names of a memory's sets of weights: for its default embedder, and for others."""
    own = {"rag": [embedder().name], "titans": [base_embedder().name], "context_bank": [KEYS]}.get(name, [])
    return [*own, ANOTHER_EMBEDDER]


# Report


def report(parts: Sequence[Part], name: str) -> list[dict[str, object]]:
    """Return for each part recall@10 without abstention, and with it the shares that are right by kind of question."""
    table = []
    for part in track(parts, f"report on {name}", console=CONSOLE):
        row: dict[str, object] = {"memory": name, "part": part.name, "fit": part.fit}
        memory: Any = part.memories[name]
        shares: dict[str, list[float]] = {}
        for question in part.questions:
            found = {seq for hit in memory.recall(question.text) for seq in hit.seqs}
            if question.relevant:
                shares.setdefault("recall@10", []).append(recall_at_10(memory, question))
                kept = len(found & question.relevant) / len(question.relevant)
                shares.setdefault(question.kind, []).append(kept)
            else:
                shares.setdefault(f"silent: {question.kind}", []).append(float(not found))
        table.append(row | {name: round(float(np.mean(values)), 3) for name, values in shares.items()})
    return table


def recall_at_10(memory: Any, question: Question) -> float:
    config = memory.config
    memory.config = replace(config, abstain=False)
    ranked = [seq for hit in memory.recall(question.text, limit=10) for seq in hit.seqs][:10]
    memory.config = config
    return len(question.relevant.intersection(ranked)) / len(question.relevant)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("locomo", type=Path)
    parser.add_argument("--report", action="store_true", help="fit nothing")
    parser.add_argument("--only", choices=("need", "ranking", "relevance"), nargs="+", default=None)
    parser.add_argument("--memory", choices=tuple(MEMORIES), nargs="+", default=list(MEMORIES))
    arguments = parser.parse_args()
    stages = () if arguments.report else arguments.only or ("need", "ranking", "relevance")
    parts = [*locomo(arguments.locomo), abstention()]
    for half in (True, False):
        parts += [*languages(fit=half), *several(fit=half), literal_part(fit=half), assistant_part(fit=half)]
    with tempfile.TemporaryDirectory() as folder:
        if "ranking" in stages and "memo" in arguments.memory:
            fit_centre(parts, base_embedder())
        for part in track(parts, "reading", console=CONSOLE):
            fill(part, arguments.memory, Path(folder))
        if "need" in stages:
            fit_need(parts)
        if "ranking" in stages and "rag" in arguments.memory:
            write_named_weights(ranking.WEIGHTS, {ranking.WEIGHT_SET: fit_ranking(parts)}, NOTE)
        if "ranking" in stages and "memo" in arguments.memory:
            fit_memo_ranking(parts, NOTE)
        if "ranking" in stages and "context_bank" in arguments.memory:
            fit_context_bank_ranking(parts, NOTE)
        if "relevance" in stages:
            for name in arguments.memory:
                rows = list(judgements(parts, name))
                sets = {one: fit_relevance(rows, one) for one in weight_sets(name)}
                write_named_weights(WEIGHTS[name], sets, NOTE)
        for name in arguments.memory:
            for row in report(parts, name):
                print(json.dumps(row))


if __name__ == "__main__":
    main()
