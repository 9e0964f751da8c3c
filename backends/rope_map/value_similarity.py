"""Value similarity: whether two tokens carry the same content, in whatever words.

A query says what a token looks for, a key what it can be found by, and a value what it passes on to the tokens that
attend to it. Query heads that address memory find little where a question and its answer share no word ("Where did I spend my
childhood?", "I grew up in Oamaru"); there the values of some heads in the upper layers are similar. So the values of a
few heads are compared too. The values of each head are whitened (Su et al. 2021, arXiv 2103.15316: components that vary much over
any text say little), normalised to the same length, and concatenated:

    embedding = concat over heads of normalize((v - mean) W),   W W^T = (covariance + ridge)^-1

The cosine of two embeddings, times ``Tuning.value_sharpness``, takes the place of a query's score on a key from there on:
chunks share a softmax of similarities as they share a head's attention. Values are never rotated, so no offset is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ValueSimilarity:
    """Embeds tokens by the whitened values of some heads.

    Attributes:
        heads: (layer, kv_head) of each, from 0.
        mean: ``[heads, head_dim]``.
        whitening: the matrix ``W`` of each head, ``[heads, head_dim, head_dim]``.
    """

    heads: tuple[tuple[int, int], ...]
    mean: Tensor
    whitening: Tensor

    @property
    def num_layers(self) -> int:
        """How many layers of the model a text has to run through."""
        return 1 + max(layer for layer, _ in self.heads)

    def embed(self, values: Tensor) -> Tensor:
        """Return value embeddings of length 1; a higher inner product of two means more similar content.

        Args:
            values: ``[tokens, layers, kv_heads, head_dim]``, of the first layers or of all.

        Returns:
            float32 ``[tokens, heads * head_dim]``.
        """
        layers, kv_heads = (list(places) for places in zip(*self.heads, strict=True))
        selected: Tensor = values[:, layers, kv_heads].float().to(self.mean.device)
        whitened = torch.einsum("thd,hde->the", selected - self.mean, self.whitening)
        embeddings = torch.nn.functional.normalize(whitened, dim=-1).flatten(1)
        return embeddings / math.sqrt(len(self.heads))


def fit_value_similarity(
    heads: Sequence[tuple[int, int]], values: Tensor, whitening_ridge: float
) -> ValueSimilarity:
    """Fit the whitening of some heads' values to a text.

    Args:
        heads: (layer, kv_head) of each.
        values: of the text, ``[tokens, layers, kv_heads, head_dim]``.
        whitening_ridge: added to the covariance, as a share of the mean variance.
    """
    selected = torch.stack([values[:, layer, head] for layer, head in heads]).float()
    mean = selected.mean(1, keepdim=True)
    covariance = (selected - mean).mT @ (selected - mean) / selected.shape[1]
    variances, directions = torch.linalg.eigh(covariance)
    ridge = whitening_ridge * variances.mean(-1, keepdim=True)
    whitening = directions / (variances.clamp_min(0.0) + ridge).sqrt()[:, None]
    return ValueSimilarity(tuple(heads), mean[:, 0], whitening)
