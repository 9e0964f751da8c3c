"""Likeness of values: whether two tokens carry the same content, in whatever words they say it.

A query says what a token looks for, a key what it can be found by, and a value what it passes on to whoever attends to it. Heads
whose queries address memory find little where a question and its answer share no word ("Where did I spend my
childhood?", "I grew up in Oamaru"); there the values of some heads in the upper layers are alike. So the values of a
few heads are compared too, each head's whitened (Su et al. 2021, arXiv 2103.15316: components that vary much over any
text say little), made equally long, and joined:

    v_hat = concat over heads of normalize((v - mean) W),   W W^T = (covariance + RIDGE)^-1

The cosine of two joined values, times ``SHARPNESS``, stands for a query's score on a key from there on: the pieces
share a softmax of likeness as they share a head's attention. Values are never rotated, so no offset is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SHARPNESS = 15.0
"""The score of two tokens that carry the same; chosen of 10, 15, 20 and 30 on the development data of LoCoMo."""

RIDGE = 0.05
"""What is added to the covariance, as a share of its mean variance: components that hardly vary are noise."""


@dataclass(frozen=True)
class Likeness:
    """What whitens the values of some heads.

    Attributes:
        heads: (layer, kv_head) of each, from 0.
        mean: ``[heads, head_dim]``.
        whitening: ``W`` of each head, ``[heads, head_dim, head_dim]``.
    """

    heads: tuple[tuple[int, int], ...]
    mean: Tensor
    whitening: Tensor

    @property
    def depth(self) -> int:
        """How many layers a text has to be read through."""
        return 1 + max(layer for layer, _ in self.heads)

    def __call__(self, values: Tensor) -> Tensor:
        """Return tokens' joined values, of length 1.

        Args:
            values: ``[tokens, layers, kv_heads, head_dim]``, the first layers or all.

        Returns:
            float32 ``[tokens, heads * head_dim]``.
        """
        layers, kv_heads = (list(places) for places in zip(*self.heads, strict=True))
        chosen: Tensor = values[:, layers, kv_heads].float().to(self.mean.device)
        white = torch.einsum("thd,hde->the", chosen - self.mean, self.whitening)
        joined = torch.nn.functional.normalize(white, dim=-1).flatten(1)
        return joined / math.sqrt(len(self.heads))


def learn(heads: Sequence[tuple[int, int]], values: Tensor) -> Likeness:
    """Measure the mean and the covariance of heads' values over a text.

    Args:
        heads: (layer, kv_head) of each.
        values: of the text, ``[tokens, layers, kv_heads, head_dim]``.
    """
    own = torch.stack([values[:, layer, head] for layer, head in heads]).float()
    mean = own.mean(1, keepdim=True)
    covariance = (own - mean).mT @ (own - mean) / own.shape[1]
    variance, directions = torch.linalg.eigh(covariance)
    floor = RIDGE * variance.mean(-1, keepdim=True)
    whitening = directions / (variance.clamp_min(0.0) + floor).sqrt()[:, None]
    return Likeness(tuple(heads), mean[:, 0], whitening)
