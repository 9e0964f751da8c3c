"""Fit which statements supersede older ones on data/changes*.yaml, and report by cross-fitting.

python benchmarks/fit_supersession.py            # reports, fits on all pairs, and writes the weights
python benchmarks/fit_supersession.py --report   # reports only

Pairs of similar statements of one memory (the facts of abstention.json, languages.yaml and several.yaml) hold side by side, too: from
them the classifier learns that a change of one thing leaves others as they are.

The report judges each pair by weights that were fitted on about seven eighths of the pairs, among which is none like it:
translations, and pairs of about the same statements, stay together.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from fit_linear import minimise

from memagent.backends.protocol import Vectors
from memagent.backends.shared import supersession
from memagent.backends.shared.linear import write_tensors
from memagent.backends.shared.multilingual import MultilingualEmbedder

DATA = Path(__file__).parent / "data"
FILES = ("changes", "changes_everyday")
PENALTY = 2e-4
"""Of the squared weights. Of 1e-4 to 1e-3 by cross-fitting; 1e-4 and 3e-4 are about the same, 1e-3 marks fewer."""
COMPONENTS = 48
"""Principal components whose products are features. Of 0, 16, 24, 32, 48 and 64 by cross-fitting; 0 marks fewer."""
COMPONENTS_SCALE = 2.0
"""Length of the products of components, where a statement's vector has 1. Of 1, 1.5, 2 and 4; 4 marks fewer."""
NEIGHBOURS = 4
"""Statements of the same memory that each statement is paired with: the most similar ones."""
MEMORY_WEIGHT = 0.2
"""Of such a pair in the fit. Of 0, 0.1, 0.2, 0.3 and 1 by cross-fitting: less marks more of them, more marks fewer successions."""
REPETITION_WEIGHT = 0.05
"""Of a statement said twice, in the fit, relative to its pair. Of 0, 0.02 and 0.05 by cross-fitting: with 0, 17 of 2310 are marked."""
FOLDS = 8
SAME_OLDER = 0.65
SAME_PAIR = 0.6
"""Pairs stay together from this cosine of their older statements, or this mean of both cosines, on. A group has at most 35 pairs."""
ALIGNED = ("es", "ru", "zh", "ja")
"""Languages whose pairs at the same place of a file are mostly translations of each other, with other names; they stay together."""
THRESHOLDS = tuple(tenths / 10 for tenths in range(11))


@dataclass(frozen=True)
class Pair:
    source: str
    language: str
    older: str
    newer: str
    supersedes: bool
    place: int = 0
    """Of a pair of a file: its place among those of its language and kind."""
    places: tuple[int, int] | None = None
    """Of a pair of one memory: the places of the older and the newer statement in it. Translations have the same places."""


def read_pairs() -> list[Pair]:
    return [
        Pair(file, language, older, newer, kind == "superseding", place)
        for file in FILES
        for language, entries in yaml.safe_load((DATA / f"{file}.yaml").read_text(encoding="utf-8")).items()
        for kind in ("superseding", "compatible")
        for place, (older, newer) in enumerate(entries[kind])
    ]


def read_memories() -> dict[str, list[str]]:
    """Return statements that one person may make, which hold side by side, by language.

    Of languages.yaml and several.yaml they are the even places: on the odd ones fit_recall.py reports.
    """
    memories: dict[str, list[str]] = defaultdict(list)
    for language, entries in yaml.safe_load((DATA / "languages.yaml").read_text(encoding="utf-8")).items():
        memories[language] += [fact for fact, _ in entries["facts"][::2]]
    for language, answers in yaml.safe_load((DATA / "several.yaml").read_text(encoding="utf-8")).items():
        memories[language] += [fact for facts, _ in answers[::2] for fact in facts]
    english = json.loads((DATA / "abstention.json").read_text(encoding="utf-8"))
    memories["en"] += [fact["text"] for fact in english["facts"]] + english["statements"]
    return memories


def memory_pairs() -> list[Pair]:
    """Return pairs of similar statements of one memory, in an order by chance."""
    chance = random.Random(0)
    pairs = []
    for language, statements in read_memories().items():
        vectors = MultilingualEmbedder().embed(statements)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -1)
        nearest = np.argsort(-cosines, axis=1)[:, :NEIGHBOURS].tolist()
        neighbours = {tuple(sorted((place, other))) for place, row in enumerate(nearest) for other in row}
        for both in sorted(neighbours):
            older, newer = chance.sample(both, 2)
            texts = statements[older], statements[newer]
            pairs.append(Pair("memory", language, *texts, supersedes=False, places=(older, newer)))
    return pairs


def situation(pair: Pair) -> str:
    """Return what a pair of a file shares with its translations at the same place, and with no other."""
    language = "aligned" if pair.language in ALIGNED else pair.language
    return f"{pair.source} {language} {pair.supersedes} {pair.place}"


def folds(pairs: Sequence[Pair], newer: Vectors, older: Vectors) -> list[tuple[list[int], list[int]]]:
    """Return for each fold the places of the pairs that are judged, and of those that are fitted on.

    Pairs that are alike are in one fold. Of a memory, no statement of a judged pair's newer one is fitted on.
    """
    written = [place for place, pair in enumerate(pairs) if pair.places is None]
    older_cosines = older[written] @ older[written].T
    alike = older_cosines >= SAME_OLDER
    alike |= older_cosines + newer[written] @ newer[written].T >= 2 * SAME_PAIR
    situations = np.asarray([situation(pairs[place]) for place in written])
    alike |= situations[:, None] == situations
    groups: list[list[int]] = []
    ungrouped = set(range(len(written)))
    while ungrouped:
        group = [min(ungrouped)]
        ungrouped.remove(group[0])
        for place in group:  # it grows
            found = ungrouped.intersection(np.flatnonzero(alike[place]).tolist())
            group += sorted(found)
            ungrouped -= found
        groups.append([written[place] for place in group])
    random.Random(0).shuffle(groups)
    judged: list[list[int]] = [[] for _ in range(FOLDS)]
    for group in sorted(groups, key=len, reverse=True):
        min(judged, key=len).extend(group)
    fitted = [sorted(set(written).difference(fold)) for fold in judged]
    for place, pair in enumerate(pairs):
        if pair.places is not None:
            pair_folds = [statement % FOLDS for statement in pair.places]
            judged[pair_folds[1]].append(place)
            for fold in set(range(FOLDS)).difference(pair_folds):
                fitted[fold].append(place)
    return list(zip(judged, fitted, strict=True))


def principal_components(vectors: Vectors) -> Vectors:
    """Return scaled principal components and what to add to each, ``[COMPONENTS, 513]``."""
    mean = vectors.mean(axis=0)
    directions = np.linalg.svd(vectors - mean, full_matrices=False)[2][:COMPONENTS]
    spread = np.sqrt(np.square((vectors - mean) @ directions.T).mean())
    directions *= np.sqrt(COMPONENTS_SCALE / COMPONENTS) / spread
    return np.concatenate([directions, -(directions @ mean)[:, None]], axis=1).astype(np.float32)


def fit(pairs: Sequence[Pair], newer: Vectors, older: Vectors) -> dict[str, Vectors]:
    """Fit the classifier and return its weights; see ``supersession.change``.

    Args:
        pairs: the pairs.
        newer: vectors of their newer statements by the multilingual encoder, ``[pairs, 512]``.
        older: likewise.
    """
    statements = np.concatenate([newer, older])
    components = principal_components(statements)
    pairs_and_repetitions = np.concatenate([newer, statements]), np.concatenate([older, statements])
    inputs = torch.from_numpy(supersession.features(*pairs_and_repetitions, components))
    targets = torch.tensor([float(pair.supersedes) for pair in pairs] + [0.0] * len(statements))
    importances = [1.0 if pair.places is None else MEMORY_WEIGHT for pair in pairs]
    importance = torch.tensor(importances + [REPETITION_WEIGHT * weight for weight in 2 * importances])

    def loss(weights: torch.Tensor) -> torch.Tensor:
        logits = inputs @ weights[:-1] + weights[-1]
        errors = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, targets, importance, reduction="sum"
        )
        return errors / len(pairs) + PENALTY * weights[:-1].square().sum()

    weights = minimise(loss, inputs.shape[1] + 1).numpy()
    return {"weight": weights[:-1], "bias": weights[-1:], "components": components}


def cross_fit(pairs: Sequence[Pair], newer: Vectors, older: Vectors) -> Vectors:
    """Return the changes by weights fitted without the pair, -inf if the subject differs.

    Returns:
        The change of each pair, and that of its newer statement if that is said twice, ``[2, pairs]``.
    """
    changes = np.full((2, len(pairs)), -np.inf, dtype=np.float32)
    for judged, fitted in folds(pairs, newer, older):
        weights = fit([pairs[place] for place in fitted], newer[fitted], older[fitted])
        for place in judged:
            if supersession.same_subject(newer[place], older[place]):
                changes[0, place] = supersession.change(newer[place], older[place], weights)
            changes[1, place] = supersession.change(newer[place], newer[place], weights)
    return changes


def report(pairs: Sequence[Pair], changes: Vectors) -> dict[str, dict[str, str]]:
    """Return how many pairs are marked, by language, source and threshold.

    Args:
        pairs: the pairs.
        changes: see ``cross_fit``.
    """
    truth = np.asarray([pair.supersedes for pair in pairs])
    of_memory = np.asarray([pair.places is not None for pair in pairs])
    kinds = {"superseding": truth, "compatible": ~truth & ~of_memory, "memory": of_memory}

    def counts(places: Vectors, threshold: float) -> dict[str, str]:
        marked, repetition_marked = changes > threshold
        figures = {
            kind: f"{(marked & members & places).sum()} of {(members & places).sum()}"
            for kind, members in kinds.items()
            if (members & places).any()
        }
        return figures | {"said twice": f"{(repetition_marked & places).sum()} of {places.sum()}"}

    everything = np.ones(len(pairs), dtype=bool)
    figures = {f"threshold {threshold}": counts(everything, threshold) for threshold in THRESHOLDS}
    for name in dict.fromkeys(name for pair in pairs for name in (pair.source, pair.language)):
        places = np.asarray([name in (pair.source, pair.language) for pair in pairs])
        figures[name] = counts(places, supersession.THRESHOLD)
    for language in dict.fromkeys(pair.language for pair in pairs):
        places = np.asarray([(pair.source, pair.language) == (FILES[0], language) for pair in pairs])
        figures[f"{FILES[0]} {language}"] = counts(places, supersession.THRESHOLD)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", action="store_true", help="fit nothing")
    only_report = parser.parse_args().report
    pairs = [*read_pairs(), *memory_pairs()]
    encode = MultilingualEmbedder().embed
    newer, older = encode([pair.newer for pair in pairs]), encode([pair.older for pair in pairs])
    print(json.dumps(report(pairs, cross_fit(pairs, newer, older)), indent=1))
    if not only_report:
        write_tensors(supersession.WEIGHTS, fit(pairs, newer, older))


if __name__ == "__main__":
    main()
