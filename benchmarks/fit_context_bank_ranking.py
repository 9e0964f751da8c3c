"""How `context_bank` ranks: the weights of its score. ``fit_recall.py`` calls it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from fit_data import Part
from fit_linear import fit_listwise
from rich.console import Console
from rich.progress import track

from memagent.backends.context_bank import ContextBankMemory, ranking
from memagent.backends.shared.linear import write_named_weights


def context_bank_rows(part: Part) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield features and labels of all turns for each question with evidence."""
    memory = part.memories["context_bank"]
    assert isinstance(memory, ContextBankMemory)
    for question in part.questions:
        if question.relevant:
            labels = torch.tensor([float(seq in question.relevant) for seq in memory._table.seqs.tolist()])
            if 0 < labels.sum() < len(labels):
                yield torch.from_numpy(memory._compare(question.text).features), labels


def fit_context_bank_ranking(parts: Sequence[Part], note: str) -> None:
    """Write how `context_bank` ranks turns."""
    fitting = [part for part in parts if part.fit]
    rows = [
        row
        for part in track(fitting, "turns", console=Console(stderr=True))
        for row in context_bank_rows(part)
    ]
    weights = fit_listwise(rows, ranking.FEATURES)
    write_named_weights(ranking.WEIGHTS, {"turn": weights}, note)
