"""Fit which statements supersede older ones, on the even places of data/changes.yaml, and report on the odd ones.

python benchmarks/fit_supersession.py            # fits, writes the weights, and reports
python benchmarks/fit_supersession.py --report   # reports only
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import yaml
from fit_rag import minimise

from memagent.backends.shared import supersession
from memagent.backends.shared.linear import write_classifier
from memagent.backends.shared.multilingual import MultilingualEmbedder

DATA = Path(__file__).parent / "data" / "changes.yaml"
PENALTY = 3e-3


def pairs(first: int) -> list[tuple[str, str, str, float]]:
    """Return every second pair of each list: language, older, newer, and 1 where the newer supersedes."""
    languages = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    return [
        (language, older, newer, label)
        for language, entries in languages.items()
        for kind, label in (("superseding", 1.0), ("compatible", 0.0))
        for older, newer in entries[kind][first::2]
    ]


def fit() -> None:
    rows = pairs(0)
    encode = MultilingualEmbedder().embed
    older = torch.from_numpy(encode([older for _, older, _, _ in rows]))
    newer = torch.from_numpy(encode([newer for _, _, newer, _ in rows]))
    inputs = torch.cat([newer, (older * newer).sum(dim=1, keepdim=True)], dim=1)
    targets = torch.tensor([row[3] for row in rows])

    def loss(weights: torch.Tensor) -> torch.Tensor:
        logits = inputs @ weights[:-1] + weights[-1]
        errors = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        return errors + PENALTY * weights[:-1].square().sum()

    weights = minimise(loss, inputs.shape[1] + 1).numpy()
    write_classifier(supersession.WEIGHTS, weights[:-1], weights[-1])


def report() -> dict[str, dict[str, str]]:
    """Return how many pairs of the odd places are marked, by language and kind."""
    table: dict[str, dict[str, str]] = {}
    for language, older, newer, label in pairs(1):
        kind = "superseding" if label else "compatible"
        marked, total = map(int, table.setdefault(language, {}).get(kind, "0 of 0").split(" of "))
        marked += supersession.superseded_by([older, newer])[0] is not None
        table[language][kind] = f"{marked} of {total + 1}"
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", action="store_true", help="fit nothing")
    if not parser.parse_args().report:
        fit()
    print(json.dumps(report(), indent=1))


if __name__ == "__main__":
    main()
