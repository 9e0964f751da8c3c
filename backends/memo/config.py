"""The settings of the MeMo memory, and the sizes of its matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

WINDOW_TOKENS = 64
"""Most tokens of a window, its end included. A window is regenerated from its own code, so an error goes no further."""
TURNS_PER_MATRIX = 64
"""Short turns that share a sequence matrix: at most 64 * 64 pairs, of which one in 100,000 is decoded wrongly; usually half as many."""
SHARED_DIM = 512
"""Size of a shared sequence matrix. Twice the size holds four times as many tokens in four times the bytes."""
OWN_DIMS = ((3, 128), (12, 256), (64, 512))
"""A long turn has matrices of its own: up to so many windows, and the size."""
TURNS_PER_INDEX = 256
"""Turns that share an index. More of them confuse its columns."""
ROWS, COLUMNS = 2048, 1024
"""Size of an index matrix. 1,024 to 16,384 rows and 256 to 4,096 columns were tried on LoCoMo's development half: below these,
recall@10 falls by 0.03; four times as many add 0.01."""
WORD_ROWS, MEANING_ROWS, CODE_COLUMNS = 4, 64, 4
"""Active rows for each word and for each embedding, and active columns for each segment."""


@dataclass(frozen=True)
class MemoConfig:
    """Settings of the MeMo memory.

    Attributes:
        abstain: Return only what seems relevant; switch off for retrieval benchmarks.
        threshold: Lowest probability of relevance, 0 to 1 (see backends/shared/relevance.py).
        margin: Texts below this share of the best one's probability are dropped, 0 to 1.
        candidates: Texts that are regenerated for each recall; the index chooses them.
        max_injected: Model channel: most texts for one reply.
    """

    abstain: bool = True
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.14
    margin: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.1
    candidates: Annotated[int, Field(ge=1, le=1000)] = 48
    max_injected: Annotated[int, Field(ge=1, le=16)] = 3
