"""The settings of the context bank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from memagent.backends.context_bank.blocks import Precision
from memagent.backends.context_bank.consolidation import ConsolidationRule, MergeOperation, Policy

_Weight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


@dataclass(frozen=True)
class ContextBankConfig:
    """Settings of the context bank.

    Attributes:
        abstain: return only what seems relevant; switch off for retrieval benchmarks.
        threshold: lowest probability of relevance, 0 to 1 (see backends/shared/relevance.py).
        margin: turns below this share of the best one's probability are dropped, 0 to 1.
        capacity: most latent vectors; about two for a turn of 30 tokens. When it is reached, vectors are merged.
        ratio: tokens in a latent vector. Another ratio than the shipped one is trained first (`backends train context_bank`).
        precision: of stored vectors: int8 or float32.
        policy: what happens when the capacity is reached: balanced (merges within turns first, then the most similar of which few
            are merged), merge (the most similar among the least important), plain (the most similar), or evict by chance (random),
            the oldest (fifo) or the least recently used (lru).
        alpha: policy merge: weight of the frequency of use in a vector's importance.
        beta: weight of its average attention.
        gamma: weight of its recency.
        merge: how two vectors become one: average or sum.
        clusters: how many clusters of vectors a question attends to; 0: all vectors, by brute force.
        max_injected: model channel: most turns for one reply.
        text: files of text that `backends train context_bank` reads, separated by commas; one text a line.
    """

    abstain: bool = True
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.2
    margin: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.1
    capacity: Annotated[int, Field(ge=1, le=100_000_000)] = 16_384
    ratio: Annotated[int, Field(ge=2, le=128)] = 16
    precision: Precision = "int8"
    policy: Policy = "balanced"
    alpha: _Weight = 1.0
    beta: _Weight = 1.0
    gamma: _Weight = 1.0
    merge: MergeOperation = "average"
    clusters: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    max_injected: Annotated[int, Field(ge=1, le=16)] = 3
    text: str = ""

    def rule(self, key_size: int, seed: int) -> ConsolidationRule:
        """Return how vectors are merged or evicted.

        Args:
            key_size: leading components by which vectors are compared.
            seed: of the policy ``random``.
        """
        return ConsolidationRule(
            policy=self.policy,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            merge=self.merge,
            key_dim=key_size,
            seed=seed,
        )
