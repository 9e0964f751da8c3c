"""The settings of the Titans memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class TitansMemoryConfig:
    """Settings of the Titans memory.

    Attributes:
        abstain: Return only what seems relevant; switch off for retrieval benchmarks.
        threshold: Lowest probability of relevance, 0 to 1 (see backends/shared/relevance.py).
        margin: Texts below this share of the best one's probability are dropped, 0 to 1.
        min_score: Text channel: lowest score of a chunk, an inner product of embeddings; below it the network has lost the
            chunk.
        successor_weight: Text channel: weight of "follows the query" (head 1) beside "is like the query" (head 0).
        memory_depth: Layers of the neural memory's MLPs.
        memory_width: Size of their hidden layers.
        theta: Learning rate of the neural memory. One step has to store a turn, so it should not be small.
        eta: Momentum of the neural memory: the share of the last step that goes on; above 0.8 the memory oscillates.
        alpha: Share of both memories that each chunk forgets; 0: they forget only what is overwritten.
        key_expansion: Size of the associative memory's keys, in embeddings; each costs 0.4 MB.
        decoding_threshold: Model channel: lowest score of a decoded text, if the memory abstains.
        max_decoded: Model channel: most texts for one reply.
    """

    abstain: bool = True
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.14
    margin: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.1
    min_score: Annotated[float, Field(allow_inf_nan=False)] = 0.2
    successor_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    memory_depth: Annotated[int, Field(ge=1, le=4)] = 2
    memory_width: Annotated[int, Field(ge=1, le=16384)] = 1536
    theta: Annotated[float, Field(gt=0, le=0.5)] = 0.3
    eta: Annotated[float, Field(ge=0, lt=1)] = 0.3
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.0
    key_expansion: Annotated[int, Field(ge=1, le=4096)] = 86
    decoding_threshold: Annotated[float, Field(ge=0, le=1)] = 0.33
    max_decoded: Annotated[int, Field(ge=1, le=16)] = 3
