"""Fitting linear models: a convex loss by L-BFGS, and a score that ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_RANKING_PENALTY = 0.01
"""Of the squared weights, each times the standard deviation of its feature."""


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


def fit_listwise(rows: Sequence[tuple[torch.Tensor, torch.Tensor]], names: Sequence[str]) -> dict[str, float]:
    """Fit a linear score by a listwise softmax loss.

    Args:
        rows: for each question the features of its candidates, and 1 for those that answer it.
        names: of the features.
    """
    stacked = torch.cat([features for features, _ in rows])
    scale = stacked.std(dim=0) + 1e-6

    def loss(weights: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = _RANKING_PENALTY * weights.square().sum()
        for features, labels in rows:
            log_shares = (features / scale @ weights).log_softmax(dim=0)
            total = total - (log_shares * labels).sum() / labels.sum() / len(rows)
        return total

    weights = minimise(loss, len(names)) / scale
    return dict(zip(names, map(float, weights), strict=True))
