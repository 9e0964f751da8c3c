"""Fitting how much each head's evidence is to be believed, and from when on a piece counts as relevant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memagent.backends.rope_map.addressing import Addressing

_PENALTY = 0.3
_STEPS = 80
_REFUSED = 0.6
RECIPE = (_PENALTY, _STEPS, _REFUSED)
"""What a fit depends on besides its examples."""


@dataclass(frozen=True)
class Example:
    """A scene's questions.

    Attributes:
        own: the evidence on its pieces: ``[questions, pieces, 2 * (heads + 1)]``.
        evidence: the same with the neighbours' share.
        background: that on the pieces of the background: ``[questions, background pieces, 2 * (heads + 1)]``.
        target: ``[questions, pieces]``: 1 for pieces that answer, all 0 for remarks that need no memory.
    """

    own: Tensor
    evidence: Tensor
    background: Tensor
    target: Tensor


def fit(bare: Addressing, examples: Sequence[Example]) -> Addressing:
    """Learn weights and threshold for the chosen heads.

    Weights are squares, so that attention never counts against a piece: without that they take opposite signs for
    heads that say the same, and carry over to people's questions less well.
    """
    roots = torch.full((2 * (len(bare.heads) + 1),), 0.3, requires_grad=True)
    optimizer = torch.optim.LBFGS([roots], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        losses = []
        weights = roots.square()
        for one in examples:
            answered = one.target.sum(1) > 0
            target = one.target[answered]
            likely = (one.evidence[answered] @ weights).log_softmax(1)
            losses.append(-(likely * target).sum(1) / target.sum(1))
        total = torch.cat(losses).mean() + _PENALTY * weights.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    weights = roots.detach().square()
    return replace(bare, weights=weights, threshold=_threshold(weights, examples))


def _threshold(weights: Tensor, examples: Sequence[Example]) -> float:
    """Return how far above the background the best piece for a remark that needs no memory rarely gets."""
    above = [
        ((one.own @ weights).amax(1) - (one.background @ weights).amax(1))[one.target.sum(1) == 0]
        for one in examples
    ]
    return float(torch.cat(above).quantile(_REFUSED))
