"""Fitting the weights of the heads' evidence, and the threshold of abstention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memagent.backends.rope_map.addressing import CalibratedHeads


@dataclass(frozen=True)
class Example:
    """The questions of one dialogue.

    Attributes:
        own_evidence: on each chunk, ``[questions, chunks, 2 * (query heads + 1)]``.
        evidence: the same with the neighbours' shares.
        background: on the chunks of the background, ``[questions, background chunks, 2 * (query heads + 1)]``.
        targets: ``[questions, chunks]``: 1 for the chunks that answer; all 0 for remarks that need no memory.
    """

    own_evidence: Tensor
    evidence: Tensor
    background: Tensor
    targets: Tensor

    @property
    def is_answered(self) -> Tensor:
        """``[questions]`` boolean: False for remarks."""
        return self.targets.sum(1) > 0


def fit(heads: CalibratedHeads, examples: Sequence[Example]) -> CalibratedHeads:
    """Return the heads with fitted weights and threshold.

    The loss is a listwise softmax over the chunks of a dialogue (ListNet, Cao et al. 2007) with a penalty on squared
    weights. Weights are squares of the fitted numbers, so that attention never counts against a chunk: weights of either
    sign become opposite for heads that agree, and transfer to people's questions less well.
    """
    tuning = heads.tuning
    roots = torch.full((2 * (len(heads.query_heads) + 1),), 0.3, requires_grad=True)
    optimizer = torch.optim.LBFGS([roots], max_iter=tuning.fit_steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        losses = []
        weights = roots.square()
        for example in examples:
            targets = example.targets[example.is_answered]
            log_probabilities = (example.evidence[example.is_answered] @ weights).log_softmax(1)
            losses.append(-(log_probabilities * targets).sum(1) / targets.sum(1))
        total = torch.cat(losses).mean() + tuning.weight_penalty * weights.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    weights = roots.detach().square()
    return replace(heads, weights=weights, threshold=_threshold(weights, examples, tuning.refused_share))


def _threshold(weights: Tensor, examples: Sequence[Example], refused_share: float) -> float:
    """Return the lead over the background that the best chunk of so many remarks does not reach."""
    leads = [
        ((example.own_evidence @ weights).amax(1) - (example.background @ weights).amax(1))[
            ~example.is_answered
        ]
        for example in examples
    ]
    return float(torch.cat(leads).quantile(refused_share))
