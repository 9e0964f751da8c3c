"""Consolidation: a block that exceeds its quota merges or evicts the vectors that matter least.

The policy ``merge`` follows equations 14 and 15 of the memory-bank paper: among the least important vectors, the most similar pair is
merged, until the quota is met. Importance weighs how often a vector was used, how central it is in its block, and how recently it
was added or used. The default, ``balanced``, has no importance: it merges within turns first, then the most similar vectors in which
few are merged. On LoCoMo's conv-43 and conv-47, which nothing was chosen on, recall@10 at a quarter of the needed capacity was 0.48 by
``balanced``, 0.26 by ``merge`` and 0.24 by random eviction, with the same ranking and without uses.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from memagent.backends.context_bank.blocks import (
    MAX_MAGNITUDE,
    MAX_RECORDS,
    RECORD,
    TURNS_PER_BLOCK,
    Block,
    Floats,
    Integers,
    dequantise,
    frequency,
    quantise,
    recency,
    turn_mask,
)
from memagent.backends.context_bank.similarities import Similarities
from memagent.backends.errors import SettingError

Policy = Literal["balanced", "merge", "plain", "random", "fifo", "lru"]
MergeOperation = Literal["average", "sum"]
_SAME_TURN = 2.0
"""Policy ``balanced``: added to the cosine of two vectors of one turn, so that these merge first (0, 0.5 and 2 were tried)."""
_PER_ORIGINAL = 0.1
"""Policy ``balanced``: subtracted for each original vector beyond the first (0.02 to 0.3 were tried)."""
_PER_UNMERGED = 0.3
"""Policy ``balanced``: subtracted for each of the two that is not merged yet and still holds its words (0 to 0.5 were tried).
All three were chosen on the LoCoMo conversations conv-26, conv-30 and conv-41 at 50, 25 and 10 % of the needed capacity."""


@dataclass(frozen=True, slots=True)
class ConsolidationRule:
    """How a block is brought down to its quota.

    Attributes:
        policy: ``merge`` merges the most similar pair among the least important vectors; ``plain`` merges the most similar pair
            of all; ``balanced`` prefers pairs of one turn, then those in which few vectors, but not only single ones, are merged;
            ``random``, ``fifo`` and ``lru`` evict by chance, the oldest, or the least recently added or used.
        alpha: weight of the frequency of use in the importance; 0 or more.
        beta: weight of the average attention.
        gamma: weight of the recency.
        candidates: share of the vectors, the least important ones, that may be merged; above 0, at most 1. They are always at
            least two.
        merge: ``average`` weighs vectors by the number of originals in them, so that means stay means; ``sum`` adds them.
        key_dim: number of leading elements that similarities are computed from; 0: all.
        seed: of the random eviction.

    Raises:
        SettingError: a value is out of its range.
    """

    policy: Policy = "merge"
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    candidates: float = 0.5
    merge: MergeOperation = "average"
    key_dim: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, options in (("policy", self.policy, Policy), ("merge", self.merge, MergeOperation)):
            if value not in get_args(options):
                raise SettingError(f"{name} is {value!r}; it must be one of {', '.join(get_args(options))}.")
        for name in ("alpha", "beta", "gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be a number from 0.")
        if not 0 < self.candidates <= 1:
            raise SettingError(f"candidates is {self.candidates}; it must be above 0 and at most 1.")
        if self.key_dim < 0:
            raise SettingError(f"key_dim is {self.key_dim}; it must be 0 (all elements) or more.")

    @property
    def follows_use(self) -> bool:
        """Whether the uses of turns can decide what is merged or evicted."""
        return self.policy == "lru" or (self.policy == "merge" and bool(self.alpha or self.gamma))

    @property
    def merges(self) -> bool:
        """Whether vectors are merged, not evicted."""
        return self.policy in ("balanced", "merge", "plain")


@dataclass(frozen=True, slots=True)
class Moment:
    """When a consolidation happens: on the arrival of a turn in the block, or when a later block begins.

    Attributes:
        blocks: number of blocks by then.
        turn: seq of the turn in this block that arrives; 0: a later block begins.
    """

    blocks: int
    turn: int = 0

    @property
    def cutoff(self) -> int:
        """The latest seq of a reply whose uses count."""
        return self.turn - 1 if self.turn else (self.blocks - 1) * TURNS_PER_BLOCK


def consolidate(block: Block, quota: int, rule: ConsolidationRule, moment: Moment) -> Block:
    """Return a block with at most ``quota`` vectors, 1 or more; the block itself if it has no more."""
    if len(block) > quota and not rule.merges:
        return _evict(block, len(block) - quota, rule, moment)
    while len(block) > quota:
        # In steps, because a merge costs the square of the number of vectors that the step began with.
        block = _merge(block, max(quota, len(block) * 3 // 4), rule, moment)
    return block


def importances(
    rule: ConsolidationRule, used: NDArray[np.float64], attention: Floats, latest: Integers
) -> Floats:
    """Return equation 15 for the vectors of a block, ``[n]``: higher is more important.

    Each factor is scaled within the block, the lowest value to 0 and the highest to 1; a factor that is the same for all is 0.

    Args:
        rule: the weights.
        used: frequency of use, ``[n]``.
        attention: average attention, ``[n]``.
        latest: recency, ``[n]``.
    """
    factors = ((rule.alpha, used), (rule.beta, attention), (rule.gamma, latest))
    total = sum(weight * _scaled(factor.astype(np.float64)) for weight, factor in factors)
    return np.asarray(total).astype(np.float32)


def _scaled(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = factor.min(), factor.max()
    return (factor - low) / (high - low) if high > low else np.zeros(len(factor))


def _merge(block: Block, quota: int, rule: ConsolidationRule, moment: Moment) -> Block:
    """Merge pairs until the quota is met; matrices keep the removed rows, so it is for a quota not far below."""
    codes, scales, weights = block.codes.copy(), block.scales.copy(), block.weights.copy()
    similarities = Similarities(block.vectors, rule.key_dim)
    use_counts, latest_seqs = block.use_counts(moment.cutoff)
    used, latest = frequency(weights, use_counts), recency(weights, latest_seqs)
    rows = np.arange(len(block))
    records = np.zeros(len(block) - quota, RECORD)
    for record in records:
        importance, candidates = np.zeros(len(block), np.float32), rows
        if rule.policy == "merge":
            attention = similarities.average_attention()
            importance[rows] = importances(rule, used[rows], attention[rows], latest[rows])
            limit = max(2, math.ceil(rule.candidates * len(rows)))
            candidates = np.sort(rows[np.argsort(importance[rows], kind="stable")[:limit]])
        preferences = _preferences(weights[rows]) if rule.policy == "balanced" else None
        kept, removed = similarities.best_pair(candidates, preferences)
        record["turn"], record["blocks"] = moment.turn, moment.blocks
        record["kept"], record["removed"] = turn_mask(weights[kept]), turn_mask(weights[removed])
        record["cosine"] = similarities.cosines[kept, removed]
        record["kept_importance"], record["removed_importance"] = importance[kept], importance[removed]
        pair = [kept, removed]
        merged = _merged(dequantise(codes[pair], scales[pair]), weights[pair], rule.merge)
        codes[[kept]], scales[[kept]] = quantise(merged[None], block.precision)
        weights[kept] += weights[removed]
        similarities.merge(kept, removed, dequantise(codes[[kept]], scales[[kept]])[0])
        used[kept] = frequency(weights[[kept]], use_counts)[0]
        latest[kept] = max(latest[kept], latest[removed])
        rows = rows[rows != removed]
    merged_block = replace(block, codes=codes[rows], scales=scales[rows], weights=weights[rows])
    return _logged(merged_block, block, records)


def _preferences(weights: NDArray[np.int32]) -> Floats:
    """Return what the policy ``balanced`` adds to the cosines of pairs, ``[n, n]``.

    Args:
        weights: ``[n, 64]``, see ``Block``.
    """
    counts = weights.sum(axis=1)
    turns = np.where((weights > 0).sum(axis=1) == 1, weights.argmax(axis=1), -1)
    cost = (_PER_ORIGINAL * (counts - 1) + _PER_UNMERGED * (counts == 1)).astype(np.float32)
    same = ((turns[:, None] == turns) & (turns >= 0)).astype(np.float32)
    preferences: Floats = _SAME_TURN * same - (cost[:, None] + cost)
    np.fill_diagonal(preferences, -np.inf)
    return preferences


def _merged(pair: Floats, weights: NDArray[np.int32], operation: MergeOperation) -> NDArray[np.float64]:
    first, second = pair.astype(np.float64)
    if operation == "average":
        counts = weights.sum(axis=1)
        return np.asarray((counts[0] * first + counts[1] * second) / counts.sum())
    total = first + second
    peak = float(np.abs(total).max())
    return np.asarray(total * (MAX_MAGNITUDE / peak) if peak > MAX_MAGNITUDE else total)


def _evict(block: Block, excess: int, rule: ConsolidationRule, moment: Moment) -> Block:
    order = np.argsort(_eviction_priority(block, rule, moment), kind="stable")
    records = np.zeros(excess, RECORD)
    for record, row in zip(records, order[:excess], strict=True):
        record["turn"], record["blocks"] = moment.turn, moment.blocks
        record["removed"] = turn_mask(block.weights[row])
    rows = np.sort(order[excess:])
    return _logged(
        replace(block, codes=block.codes[rows], scales=block.scales[rows], weights=block.weights[rows]),
        block,
        records,
    )


def _eviction_priority(block: Block, rule: ConsolidationRule, moment: Moment) -> NDArray[Any]:
    """Return what decides who is evicted, ``[n]``: the lowest first, of equals the older."""
    turns: Integers = block.weights.argmax(axis=1) + block.first_seq
    if rule.policy == "fifo":
        return turns
    if rule.policy == "lru":
        return recency(block.weights, block.use_counts(moment.cutoff)[1])
    # A function of the vector alone: what was evicted before, and when, changes nothing.
    digests = [
        hashlib.blake2b(
            f"{rule.seed} {turn} ".encode() + codes.tobytes() + scale.tobytes(), digest_size=8
        ).digest()
        for turn, codes, scale in zip(turns, block.codes, block.scales, strict=True)
    ]
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)


def _logged(block: Block, before: Block, records: NDArray[np.void]) -> Block:
    kept_records = np.concatenate([before.records, records])[-MAX_RECORDS:]
    return replace(block, records=kept_records, removals=before.removals + len(records))
