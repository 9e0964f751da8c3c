"""Scoring stored pieces by the attention that a question's tokens pay them.

A head of the model at layer l asks with its queries ``q``, rotated to an offset ``o``, and meets the stored keys
``k`` at position 0. The share of the softmax that falls on a piece is its **mass**:

    mass_t(piece) = sum over its keys of exp(q_t . k / sqrt(head_dim)) / sum over all keys of the same

"All keys" are the stored ones and a background of small talk, so that masses mean the same in a small memory as in a
large one; and what the background scores for a question is what a stored piece has to beat to count as relevant.

Most heads do not address what a question is about; a few do, at offsets of their own. Which, and how much each is to be
believed, is learnt once for each model (``calibration.py``). Two kinds of evidence are taken from each head, with m_t(p)
for a token's mass on a piece:

    sum over t of w_t log(1 + m_t(p) / FLOOR)       asks all tokens to agree, where w = softmax(-entropy of m_t): a
                                                    token that picks out few pieces, such as a name, counts for more
    max over t of log(1 + m_t(p) / FLOOR) - b_t     trusts the one token that picks the piece out best, where b_t is the
                                                    same mean over the background's pieces; at least 0

The first finds what a conversation was about, the second what a lone statement says in other words. The likeness of
values (``likeness.py``) is asked as one head more, and gives the same two. The weighted sum of
a piece's evidence is its score; as an answer often has few words in common with a question, a piece is also credited
with a part of the evidence on its neighbours in the dialogue: the two pieces it answers and the one that answers it.
What one speaker says in a row is no dialogue: there each piece stands for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from memagent.backends.rope_map.value_similarity import Likeness

FLOOR = 1e-3
"""Mass below this is noise: an even spread over a thousand pieces."""

NEIGHBOURS = {0: 1.0, -1: 0.5, -2: 0.5, 1: 0.3}
"""How much evidence on the piece so many places away counts for a piece.

Chosen on one conversation of LoCoMo (conv-26). Learning weights for each neighbour and head fitted generated talk too
closely: recall@10 over five conversations of LoCoMo 0.70 against 0.78.
"""


@dataclass(frozen=True, slots=True)
class Head:
    """A query head at one offset: layer and head from 0, offset in tokens."""

    layer: int
    head: int
    offset: int


@dataclass(frozen=True)
class Addressing:
    """What was learnt about one model.

    Attributes:
        heads: those that address, each at its offset.
        group: query heads that share a key/value head.
        likeness: of the values of some heads.
        weights: ``[2 * (len(heads) + 1)]``, 0 or more: for the first kind of evidence of all heads and of the likeness,
            then for the second.
        threshold: the best piece must be so far above the background for anything to be relevant.
        background: unrotated keys of small talk by (layer, kv_head): ``[tokens, head_dim]``.
        alike: the joined values of the same: ``[tokens, value heads * head_dim]``.
        owners: ``[tokens]``, which piece of the background each of its tokens belongs to.
    """

    heads: tuple[Head, ...]
    group: int
    likeness: Likeness
    weights: Tensor
    threshold: float
    background: dict[tuple[int, int], Tensor]
    alike: Tensor
    owners: Tensor

    @property
    def layers(self) -> list[int]:
        """The layers whose queries are needed, ascending."""
        return sorted({head.layer for head in self.heads})

    @property
    def depth(self) -> int:
        """How many layers a question has to be read through."""
        return max(1 + self.layers[-1], self.likeness.depth)

    def key_head(self, head: Head) -> tuple[int, int]:
        """The (layer, kv_head) whose keys a head reads."""
        return head.layer, head.head // self.group


def mass(scores: Tensor, owners: Tensor, pieces: int, others: Tensor) -> Tensor:
    """Return how much of each query's attention falls on each piece: ``[tokens, pieces]``, rows sum to less than 1.

    Args:
        scores: ``[tokens, keys]``, scaled; ``-inf`` where there is none.
        owners: ``[tokens, keys]``, the piece of each key, from 0.
        others: ``[tokens, other keys]``, scaled: keys of no piece that share the attention.
    """
    total = torch.logaddexp(scores.logsumexp(-1), others.logsumexp(-1))
    share = (scores - total[:, None]).exp()
    return torch.zeros(len(scores), pieces).scatter_add_(1, owners, share)


def evidence(stored: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Turn one head's masses into both kinds of evidence, 0 for none.

    Args:
        stored, background: ``[tokens, pieces]`` each.

    Returns:
        ``[pieces, 2]`` for the stored pieces and for those of the background.
    """
    paid = torch.cat([stored, background], 1)
    likely = paid / paid.sum(1, keepdim=True)
    entropy = -(likely * likely.clamp_min(1e-12).log()).sum(1)
    logs = (paid / FLOOR).log1p()
    agreed = (-entropy).softmax(0) @ logs
    usual = logs[:, stored.shape[1] :].mean(1, keepdim=True)
    found = torch.stack([agreed, (logs - usual).amax(0).clamp_min(0.0)], -1)
    return found[: stored.shape[1]], found[stored.shape[1] :]


@dataclass(frozen=True, slots=True)
class Found:
    """The evidence on the pieces that draw any attention.

    Attributes:
        pieces: their numbers, ascending.
        evidence: ``[pieces, 2 * (heads + 1)]``.
        background: that on the pieces of the background, ``[background pieces, 2 * (heads + 1)]``.
    """

    pieces: list[int]
    evidence: Tensor
    background: Tensor


@dataclass(frozen=True, slots=True)
class Scores:
    """What a question brings to mind.

    Attributes:
        pieces: score by piece: higher is more relevant; one with 1 more is e times as likely to be meant.
        above: how far the best piece is above the best of the background, neighbours left aside on both sides.
    """

    pieces: dict[int, float]
    above: float


def gather(
    found: Found,
    weights: Tensor,
    around: Callable[[int, int], int | None],
    *,
    without: Collection[int] = (),
) -> Scores:
    """Add up the scores of pieces from the evidence found on them and on their neighbours.

    Args:
        weights: ``[2 * (heads + 1)]``.
        around: gives the number of the piece so many places after a piece in the same dialogue, or None.
        without: pieces that are neither scored nor evidence: the same question, asked before, is no answer to it.
    """
    every = zip(found.pieces, (found.evidence @ weights).tolist(), strict=True)
    own = {piece: value for piece, value in every if piece not in without}
    above = max(own.values(), default=0.0) - float((found.background @ weights).max())
    return Scores(credited(own, around, without=without), above)


def credited(
    own: Mapping[int, float], around: Callable[[int, int], int | None], *, without: Collection[int] = ()
) -> dict[int, float]:
    """Credit each piece with what is its own and with its share of what is its neighbours'."""
    credit: dict[int, float] = {}
    for piece, value in own.items():
        for shift, share in NEIGHBOURS.items():
            # What counts for the piece `shift` places back is found here.
            target = around(piece, -shift)
            if target is not None and target not in without:
                credit[target] = credit.get(target, 0.0) + share * value
    return credit
