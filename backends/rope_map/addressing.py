"""Addressing: scoring stored chunks by the attention that a question's tokens pay them.

A query head of layer l has the queries ``q``, rotated to an offset ``o``, and attends to the stored keys ``k`` at position
0. The share of the softmax that falls on a chunk is its **attention mass**:

    m_t(chunk) = sum over its keys of exp(q_t . k / sqrt(head_dim)) / sum over all keys of the same

"All keys" are the stored keys and those of a background of generated small talk, so that masses mean the same in a small
memory as in a large one. A stored chunk has to score higher than the background to count as relevant.

Most heads do not attend to what a question is about; a few do, each at its own offset. The calibration selects them and
fits their weights, once per model (``calibration.py``). Two kinds of evidence are taken from each head, with
m_t(c) for the mass of token t on chunk c:

    agreement:   sum over t of w_t log(1 + m_t(c) / mass_floor)       where w = softmax(-entropy of m_t): a token that
                                                                      selects few chunks, such as a name, counts for more
    best token:  max over t of log(1 + m_t(c) / mass_floor) - b_t     where b_t is the mean of the same over the
                                                                      background's chunks; at least 0

Agreement finds what a conversation was about; the best token finds a single statement in other words. The similarity of values
(``value_similarity.py``) is one head more and gives the same two kinds. The weighted sum of a chunk's evidence is its
score. As an answer often shares few words with its question, a chunk is also credited with a part of the evidence on its
neighbours in the dialogue: the two chunks that it answers and the one that answers it. Consecutive turns of one
speaker are no dialogue: there each chunk stands for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from memagent.backends.rope_map.tuning import Tuning
from memagent.backends.rope_map.value_similarity import ValueSimilarity

Neighbour = Callable[[int, int], int | None]
"""Returns the number of the chunk so many places after a chunk in the same dialogue, or None."""


@dataclass(frozen=True, slots=True)
class QueryHead:
    """A query head at one offset.

    Attributes:
        layer, head: from 0.
        offset: distance between query and memory, in tokens.
    """

    layer: int
    head: int
    offset: int


@dataclass(frozen=True)
class CalibratedHeads:
    """The calibrated heads of one model.

    Attributes:
        query_heads: those that address memory, each at its offset.
        group_size: query heads that share a key/value head.
        value_similarity: of the values of some heads.
        weights: ``[2 * (len(query_heads) + 1)]``, 0 or more: for the agreement of each query head and of the value
            similarity, then for the best token of the same.
        threshold: how far the best chunk has to be above the background to be relevant, in nats.
        background_keys: unrotated keys of small talk by (layer, kv_head): ``[tokens, head_dim]``.
        background_values: value embeddings of the same: ``[tokens, value heads * head_dim]``.
        background_segment_ids: ``[tokens]``, the background chunk of each of these tokens, from 0.
        tuning: the constants of the calibration and of the search.
    """

    query_heads: tuple[QueryHead, ...]
    group_size: int
    value_similarity: ValueSimilarity
    weights: Tensor
    threshold: float
    background_keys: dict[tuple[int, int], Tensor]
    background_values: Tensor
    background_segment_ids: Tensor
    tuning: Tuning

    @property
    def query_layers(self) -> list[int]:
        """The layers of the query heads, ascending."""
        return sorted({head.layer for head in self.query_heads})

    @property
    def num_layers(self) -> int:
        """How many layers of the model a question has to run through."""
        return max(1 + self.query_layers[-1], self.value_similarity.num_layers)

    def key_head(self, head: QueryHead) -> tuple[int, int]:
        """Return the (layer, kv_head) whose keys a query head attends to."""
        return head.layer, head.head // self.group_size


def attention_mass(scores: Tensor, segment_ids: Tensor, num_segments: int, other_scores: Tensor) -> Tensor:
    """Return how much of each query's attention falls on each segment of the keys.

    Args:
        scores: ``[queries, keys]``, scaled; ``-inf`` where there is no key.
        segment_ids: ``[queries, keys]``, the segment of each key, from 0.
        num_segments: of all keys.
        other_scores: ``[queries, other keys]``, scaled: keys of no segment that share the softmax.

    Returns:
        ``[queries, segments]``, 0 to 1; rows sum to less than 1.
    """
    total = torch.logaddexp(scores.logsumexp(-1), other_scores.logsumexp(-1))
    shares = (scores - total[:, None]).exp()
    return torch.zeros(len(scores), num_segments).scatter_add_(1, segment_ids, shares)


def head_evidence(stored: Tensor, background: Tensor, mass_floor: float) -> tuple[Tensor, Tensor]:
    """Return both kinds of evidence of one head, agreement and best token; 0 means none.

    Args:
        stored: attention masses of the stored chunks, ``[tokens, chunks]``.
        background: those of the background's chunks, ``[tokens, background chunks]``.
        mass_floor: mass below this is noise.

    Returns:
        ``[chunks, 2]`` for the stored chunks, and the same for those of the background.
    """
    masses = torch.cat([stored, background], 1)
    distribution = masses / masses.sum(1, keepdim=True)
    entropy = -(distribution * distribution.clamp_min(1e-12).log()).sum(1)
    log_masses = (masses / mass_floor).log1p()
    agreement = (-entropy).softmax(0) @ log_masses
    background_mean = log_masses[:, stored.shape[1] :].mean(1, keepdim=True)
    best_token = (log_masses - background_mean).amax(0).clamp_min(0.0)
    evidence = torch.stack([agreement, best_token], -1)
    return evidence[: stored.shape[1]], evidence[stored.shape[1] :]


@dataclass(frozen=True, slots=True)
class ChunkEvidence:
    """The evidence of all heads on the chunks that receive any attention.

    Attributes:
        chunks: their numbers, ascending.
        evidence: ``[chunks, 2 * (query heads + 1)]``.
        background: the same of the background's chunks, ``[background chunks, 2 * (query heads + 1)]``.
    """

    chunks: list[int]
    evidence: Tensor
    background: Tensor


@dataclass(frozen=True, slots=True)
class ChunkScores:
    """The scores of the chunks for one question.

    Attributes:
        scores: by chunk number, in nats; a higher score means a more relevant chunk.
        lead: by how much the best stored chunk exceeds the best of the background, neighbours left aside on both sides.
    """

    scores: dict[int, float]
    lead: float


def score_chunks(
    evidence: ChunkEvidence, heads: CalibratedHeads, neighbour: Neighbour, *, excluded: Collection[int] = ()
) -> ChunkScores:
    """Return the scores of chunks from the evidence on them and on their neighbours.

    Args:
        evidence: of all heads.
        heads: whose weights and tuning are used.
        neighbour: gives the neighbours of a chunk in its dialogue.
        excluded: chunks that are neither scored nor evidence for their neighbours, such as the same question asked before.
    """
    weighted = zip(evidence.chunks, (evidence.evidence @ heads.weights).tolist(), strict=True)
    own_scores = {chunk: score for chunk, score in weighted if chunk not in excluded}
    lead = max(own_scores.values(), default=0.0) - float((evidence.background @ heads.weights).max())
    return ChunkScores(credit_neighbours(own_scores, neighbour, heads.tuning, excluded=excluded), lead)


def credit_neighbours(
    own_scores: Mapping[int, float],
    neighbour: Neighbour,
    tuning: Tuning,
    *,
    excluded: Collection[int] = (),
) -> dict[int, float]:
    """Return for each chunk its own score plus its share of its neighbours' scores.

    Args:
        own_scores: by chunk number.
        neighbour: gives the neighbours of a chunk in its dialogue.
        tuning: holds the shares, ``neighbour_credit``.
        excluded: chunks that get no score.
    """
    credited: dict[int, float] = {}
    for chunk, score in own_scores.items():
        for shift, share in tuning.neighbour_credit:
            # This chunk stands `shift` places after the target.
            target = neighbour(chunk, -shift)
            if target is not None and target not in excluded:
                credited[target] = credited.get(target, 0.0) + share * score
    return credited
