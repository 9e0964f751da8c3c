"""Fit which statements supersede older ones on data/changes.yaml, and report by cross-fitting.

python benchmarks/fit_supersession.py            # reports, fits on all pairs, and writes the weights
python benchmarks/fit_supersession.py --report   # reports only

The report judges each pair by weights that were fitted on seven eighths of the pairs, among which it is not.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from fit_linear import minimise

from memagent.backends.protocol import Vectors
from memagent.backends.shared import supersession
from memagent.backends.shared.linear import write_classifier
from memagent.backends.shared.multilingual import MultilingualEmbedder

DATA = Path(__file__).parent / "data" / "changes.yaml"
PENALTY = 1e-3
FOLDS = 8


@dataclass(frozen=True)
class Pair:
    language: str
    older: str
    newer: str
    supersedes: bool


def read_pairs() -> list[Pair]:
    languages = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    return [
        Pair(language, older, newer, kind == "superseding")
        for language, entries in languages.items()
        for kind in ("superseding", "compatible")
        for older, newer in entries[kind]
    ]


def vectors(pairs: Sequence[Pair]) -> tuple[Vectors, Vectors]:
    """Return the vectors of the newer and of the older statements, ``[pairs, 512]`` each."""
    encode = MultilingualEmbedder().embed
    return encode([pair.newer for pair in pairs]), encode([pair.older for pair in pairs])


def fit(pairs: Sequence[Pair]) -> None:
    """Fit the classifier and write its weights."""
    inputs = torch.from_numpy(supersession.features(*vectors(pairs)))
    targets = torch.tensor([float(pair.supersedes) for pair in pairs])

    def loss(weights: torch.Tensor) -> torch.Tensor:
        logits = inputs @ weights[:-1] + weights[-1]
        errors = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        return errors + PENALTY * weights[:-1].square().sum()

    weights = minimise(loss, inputs.shape[1] + 1).numpy()
    write_classifier(supersession.WEIGHTS, weights[:-1], weights[-1])


def report(pairs: Sequence[Pair]) -> dict[str, dict[str, str]]:
    """Return how many pairs are marked by weights fitted without them, by language and kind. It overwrites the weights."""
    marked: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    order = random.Random(0).sample(pairs, len(pairs))
    for fold in range(FOLDS):
        fit([pair for place, pair in enumerate(order) if place % FOLDS != fold])
        for pair in order[fold::FOLDS]:
            key = pair.language, "superseding" if pair.supersedes else "compatible"
            total[key] += 1
            marked[key] += supersession.superseded_by([pair.older, pair.newer])[0] is not None
    return {
        language: {
            kind: f"{marked[language, kind]} of {total[language, kind]}"
            for kind in ("superseding", "compatible")
        }
        for language in dict.fromkeys(pair.language for pair in pairs)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", action="store_true", help="fit nothing")
    only_report = parser.parse_args().report
    shipped = supersession.WEIGHTS.read_bytes()
    pairs = read_pairs()
    try:
        print(json.dumps(report(pairs), indent=1))
    finally:
        supersession.WEIGHTS.write_bytes(shipped)
    if not only_report:
        fit(pairs)


if __name__ == "__main__":
    main()
