"""How `context_bank` ranks: the weights of its score. ``fit_recall.py`` calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from fit_data import Part
from fit_linear import fit_listwise
from rich.console import Console
from rich.progress import track

from memagent.backends.context_bank import ContextBankMemory, ranking
from memagent.backends.protocol import Vectors
from memagent.backends.shared.linear import write_named_weights


def fit_context_bank_ranking(parts: Sequence[Part], note: str) -> None:
    """Write how `context_bank` ranks turns by their latents, then how it ranks the decoded texts of the best."""
    rows = list(_rows(parts, "latents", _latent_row))
    sets = {"turn": fit_listwise(rows, ranking.FEATURES)}
    write_named_weights(ranking.WEIGHTS, sets, note)
    rows = list(_rows(parts, "texts", _text_row))
    write_named_weights(ranking.WEIGHTS, sets | {"text": fit_listwise(rows, ranking.TEXT_FEATURES)}, note)


def _rows(
    parts: Sequence[Part], label: str, row_of: Callable[[ContextBankMemory, str], tuple[Vectors, list[int]]]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield features and labels of the turns of each question whose evidence is among them."""
    for part in track([part for part in parts if part.fit], label, console=Console(stderr=True)):
        memory = part.memories["context_bank"]
        assert isinstance(memory, ContextBankMemory)
        for question in part.questions:
            if question.relevant:
                features, seqs = row_of(memory, question.text)
                labels = torch.tensor([float(seq in question.relevant) for seq in seqs])
                if 0 < labels.sum() < len(labels):
                    yield torch.from_numpy(features), labels


def _latent_row(memory: ContextBankMemory, question: str) -> tuple[Vectors, list[int]]:
    return memory._search.compare(question).features, memory._search.table.seqs.tolist()


def _text_row(memory: ContextBankMemory, question: str) -> tuple[Vectors, list[int]]:
    found = memory._search.shortlist(question)
    return found.features, memory._search.table.seqs[found.rows].tolist()
