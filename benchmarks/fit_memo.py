"""How `memo` ranks: the mean embedding that its index subtracts, and the weights of its two scores. ``fit_recall.py`` calls it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from fit_data import Part
from fit_linear import fit_listwise
from rich.console import Console
from rich.progress import track
from safetensors.numpy import save_file

from memagent.backends.memo import Memo, ranking
from memagent.backends.memo.backend import CENTRES
from memagent.backends.protocol import Embedder
from memagent.backends.shared.linear import weight_vector, write_named_weights


def fit_centre(parts: Sequence[Part], embedder: Embedder) -> None:
    """Write the mean embedding of the talk of the fitting half, which `memo` subtracts."""
    texts = [
        f"{turn.speaker}: {turn.text}" if turn.speaker else turn.text
        for part in parts
        if part.fit
        for turn in part.turns
    ]
    mean = embedder.embed(list(dict.fromkeys(texts))).mean(axis=0)
    save_file({embedder.name: mean}, CENTRES)
    CENTRES.chmod(0o644)


def fit_memo_ranking(parts: Sequence[Part], note: str) -> None:
    """Write how `memo` ranks segments by its index, then how it ranks what is regenerated of the best."""
    fitting = [part for part in parts if part.fit]
    rows = [
        row
        for part in track(fitting, "index", console=Console(stderr=True))
        for row in memo_rows(part, "index")
    ]
    sets = {"index": fit_listwise(rows, ranking.INDEX_FEATURES)}
    write_named_weights(ranking.WEIGHTS, sets, note)
    rows = [
        row
        for part in track(fitting, "texts", console=Console(stderr=True))
        for row in memo_rows(part, "text")
    ]
    write_named_weights(ranking.WEIGHTS, sets | {"text": fit_listwise(rows, ranking.TEXT_FEATURES)}, note)


def memo_rows(part: Part, stage: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield features and labels of the segments of each question: of all, or of those that are regenerated."""
    memory = part.memories["memo"]
    assert isinstance(memory, Memo)
    for question in part.questions:
        if question.relevant:
            index = memory._indexed(question.text)
            if stage == "index":
                features, seqs = index, [segment.seq for segment in memory._store.segments]
            else:
                scores = index @ weight_vector(ranking.WEIGHTS, "index", ranking.INDEX_FEATURES)
                texts, features = memory._featured(question.text, index, scores)
                seqs = [text.segment.seq for text in texts]
            labels = torch.tensor([float(seq in question.relevant) for seq in seqs])
            if 0 < labels.sum() < len(labels):
                yield torch.from_numpy(features), labels
