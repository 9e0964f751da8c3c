"""Reading a bank: its vectors with what ranking needs to know of them, and the log of what was merged or evicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memagent.backends.context_bank.blocks import (
    Block,
    Floats,
    Integers,
    frequency,
    recency,
    turns_of_mask,
)
from memagent.backends.context_bank.similarities import average_attention


@dataclass(frozen=True, slots=True)
class Removal:
    """One vector that was merged into another one, or evicted.

    Attributes:
        block: number of the block.
        turn: seq of the turn on whose arrival it happened; None: when a later block began.
        quota: number of vectors that the block was allowed.
        kept: seqs that the vector came from into which it was merged; empty: it was evicted.
        removed: seqs that the removed vector came from.
        cosine: of the two; 0 for an eviction.
        kept_importance: equation 15 by the policy ``merge``; 0 by the others.
        removed_importance: the same, of the removed vector.
    """

    block: int
    turn: int | None
    quota: int
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    cosine: float
    kept_importance: float
    removed_importance: float


@dataclass(frozen=True, slots=True)
class Sources:
    """The turns that each vector came from, in compressed sparse rows.

    Attributes:
        indptr: ``[n + 1]``: the sources of vector ``i`` are at ``indptr[i]`` to ``indptr[i + 1]``.
        seqs: of the turns, ascending within a vector.
        weights: number of original vectors of that turn which are merged in the vector.
    """

    indptr: Integers
    seqs: Integers
    weights: Integers


class BankReader:
    """The stored vectors of a bank. Arrays are made when they are first read after a change; do not write to them.

    Args:
        dim: size of a vector.
        capacity: most vectors.
        key_dim: number of leading elements that similarities are computed from; 0: all.
    """

    def __init__(self, dim: int, capacity: int, key_dim: int) -> None:
        self.dim, self.capacity = dim, capacity
        self._key_dim = key_dim
        self._blocks: dict[int, Block] = {}
        self._attention: dict[int, tuple[NDArray[Any], Floats]] = {}
        self._cache: dict[str, Any] = {}

    def __len__(self) -> int:
        return sum(map(len, self._blocks.values()))

    @property
    def newest_seq(self) -> int:
        """Seq of the newest turn; 0 if there is none."""
        return int(self._blocks[self._newest].seqs[-1]) if self._blocks else 0

    @property
    def turns(self) -> dict[int, int]:
        """Number of original vectors of each turn, by its seq, also of turns that were merged or evicted."""
        return {
            seq: size
            for block in self._blocks.values()
            for seq, size in zip(block.seqs.tolist(), block.sizes.tolist(), strict=True)
        }

    @property
    def bytes(self) -> int:
        """Memory that its arrays need."""
        return sum(block.bytes for block in self._blocks.values())

    def quota(self, blocks: int) -> int:
        """Return how many vectors each of so many blocks may have."""
        return max(1, self.capacity // blocks)

    @property
    def vectors(self) -> Floats:
        """All vectors, float32 ``[n, dim]``, oldest blocks first."""
        return self._cached("vectors", lambda block: block.vectors, np.zeros((0, self.dim), np.float32))

    @property
    def counts(self) -> Integers:
        """Number of original vectors that are merged in each vector, ``[n]``."""
        return self._cached("counts", lambda block: block.counts, np.zeros(0, np.int64))

    @property
    def average_attention(self) -> Floats:
        """How central each vector is in its block, ``[n]``, 0 to 1."""
        return self._cached("average_attention", self._attention_of, np.zeros(0, np.float32))

    @property
    def frequency(self) -> NDArray[np.float64]:
        """How often each vector was used, ``[n]``: the mean over its original vectors of the uses of each one's turn."""
        return self._cached(
            "frequency", lambda block: frequency(block.weights, block.use_counts()[0]), np.zeros(0)
        )

    @property
    def recency(self) -> Integers:
        """The latest seq at which a turn of each vector was added or used, ``[n]``."""
        return self._cached(
            "recency", lambda block: recency(block.weights, block.use_counts()[1]), np.zeros(0, np.int64)
        )

    @property
    def sources(self) -> Sources:
        """The turns that each vector came from."""
        if "sources" not in self._cache:
            sizes, seqs, weights = [np.zeros(1, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
            for block in self._blocks.values():
                rows, places = np.nonzero(block.weights)
                sizes.append(np.bincount(rows, minlength=len(block)))
                seqs.append(places + block.first_seq)
                weights.append(block.weights[rows, places].astype(np.int64))
            self._cache["sources"] = Sources(
                np.cumsum(np.concatenate(sizes)), np.concatenate(seqs), np.concatenate(weights)
            )
        sources: Sources = self._cache["sources"]
        return sources

    @property
    def removals(self) -> int:
        """Number of all merges and evictions."""
        return sum(block.removals for block in self._blocks.values())

    def log(self) -> list[Removal]:
        """Return the latest merges and evictions, at most ``MAX_RECORDS`` of each block, by block and then oldest first."""
        return [
            Removal(
                block=number,
                turn=int(record["turn"]) or None,
                quota=self.quota(int(record["blocks"])),
                kept=turns_of_mask(int(record["kept"]), number),
                removed=turns_of_mask(int(record["removed"]), number),
                cosine=float(record["cosine"]),
                kept_importance=float(record["kept_importance"]),
                removed_importance=float(record["removed_importance"]),
            )
            for number, block in self._blocks.items()
            for record in block.records
        ]

    @property
    def _newest(self) -> int:
        return max(self._blocks, default=-1)

    def _change(self, blocks: Mapping[int, Block]) -> None:
        self._blocks = dict(sorted(blocks.items()))
        self._attention = {
            number: self._attention[number] for number in self._attention.keys() & blocks.keys()
        }
        self._cache.clear()

    def _attention_of(self, block: Block) -> Floats:
        cached = self._attention.get(block.number)
        if cached is None or cached[0] is not block.codes:
            cached = block.codes, average_attention(block.vectors, self._key_dim)
            self._attention[block.number] = cached
        return cached[1]

    def _cached(
        self, name: str, of_block: Callable[[Block], NDArray[Any]], empty: NDArray[Any]
    ) -> NDArray[Any]:
        if name not in self._cache:
            parts = [of_block(block) for block in self._blocks.values()]
            self._cache[name] = np.concatenate([empty, *parts])
        array: NDArray[Any] = self._cache[name]
        return array
