"""Blocks: the latent vectors of 64 consecutive turns, which are merged with each other and with no others.

Merging never crosses a block's border. So forgetting a turn replays one block and leaves all others as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

TURNS_PER_BLOCK = 64
MAX_MAGNITUDE = 1e30
"""Largest absolute value of an element. Sums are scaled down to it, so that they stay finite in float32."""
MAX_RECORDS = 256
"""Records of the latest merges and evictions that a block keeps: at 44 bytes each, as much as a few vectors."""
RECORD = np.dtype(
    [
        ("turn", "<i8"),
        ("blocks", "<i4"),
        ("kept", "<u8"),
        ("removed", "<u8"),
        ("cosine", "<f4"),
        ("kept_importance", "<f4"),
        ("removed_importance", "<f4"),
    ]
)
"""One merge or eviction: the turn on whose arrival it happened (0: at the start of a block), the number of blocks at that time, and
bit masks of the block's turns that the kept and the removed vector came from. An eviction keeps nothing: its mask is 0."""

_BITS = np.uint64(1) << np.arange(TURNS_PER_BLOCK, dtype=np.uint64)
Precision = Literal["float32", "int8"]
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def block_of(seq: int) -> int:
    """Return the number of the block that a turn belongs to, from 0."""
    return (seq - 1) // TURNS_PER_BLOCK


def quantise(vectors: NDArray[np.floating[Any]], precision: Precision) -> tuple[NDArray[Any], Floats]:
    """Return vectors ``[n, dim]`` as they are stored: codes ``[n, dim]`` and a scale ``[n]`` for each vector.

    With ``int8``, codes are -127 to 127, symmetric around 0. With ``float32``, they are the vectors and scales are 1.
    """
    if precision == "float32":
        return vectors.astype(np.float32), np.ones(len(vectors), np.float32)
    scales = (np.abs(vectors).max(axis=1) / 127).astype(np.float32)
    divisors = np.where(scales > 0, scales, 1).astype(np.float64)
    codes = np.rint(vectors / divisors[:, None]).clip(-127, 127)
    return np.where(scales[:, None] > 0, codes, 0).astype(np.int8), scales


def dequantise(codes: NDArray[Any], scales: Floats) -> Floats:
    """Return stored vectors as float32 ``[n, dim]``."""
    return codes if codes.dtype == np.float32 else codes.astype(np.float32) * scales[:, None]


def check_of(codes: NDArray[Any], scales: Floats) -> int:
    """Return a check of a turn's original vectors: 63 bits of BLAKE2b. Vectors that are given again are compared with it."""
    digest = hashlib.blake2b(codes.tobytes() + scales.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True, eq=False)
class Block:
    """What the bank stores of up to 64 turns. Blocks are never changed in place.

    Attributes:
        number: of the block, from 0.
        seqs: of its turns, int64 ``[turns]``, ascending, also of those whose vectors were all evicted.
        sizes: number of original vectors of each turn, int32 ``[turns]``.
        checks: of each turn's original vectors, int64 ``[turns]``; see ``check_of``.
        codes: float32 or int8 ``[n, dim]``; a merged vector has the row of the older one of the two.
        scales: float32 ``[n]``.
        weights: number of original vectors of each turn that are merged in each vector, int32 ``[n, 64]``; the columns are the
            turns by ``seq - 64 * number - 1``.
        uses: pairs of a reply's seq and a recalled seq, int64 ``[m, 2]``, sorted, each once.
        records: of the latest merges and evictions, ``[at most MAX_RECORDS]`` of ``RECORD``, oldest first.
        removals: number of all merges and evictions.
    """

    number: int
    seqs: Integers
    sizes: NDArray[np.int32]
    checks: Integers
    codes: NDArray[Any]
    scales: Floats
    weights: NDArray[np.int32]
    uses: Integers
    records: NDArray[np.void]
    removals: int

    @classmethod
    def empty(cls, number: int, dim: int, precision: Precision, uses: Integers | None = None) -> Block:
        """Return a block without turns."""
        return cls(
            number=number,
            seqs=np.zeros(0, np.int64),
            sizes=np.zeros(0, np.int32),
            checks=np.zeros(0, np.int64),
            codes=np.zeros((0, dim), np.int8 if precision == "int8" else np.float32),
            scales=np.zeros(0, np.float32),
            weights=np.zeros((0, TURNS_PER_BLOCK), np.int32),
            uses=np.zeros((0, 2), np.int64) if uses is None else uses,
            records=np.zeros(0, RECORD),
            removals=0,
        )

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def precision(self) -> Precision:
        """How its vectors are stored."""
        return "int8" if self.codes.dtype == np.int8 else "float32"

    @property
    def first_seq(self) -> int:
        """The lowest seq that belongs to the block."""
        return self.number * TURNS_PER_BLOCK + 1

    @property
    def counts(self) -> Integers:
        """Number of original vectors that are merged in each vector, ``[n]``."""
        counts: Integers = self.weights.sum(axis=1, dtype=np.int64)
        return counts

    @property
    def last_cutoff(self) -> int:
        """The latest seq of a reply whose use can have decided a merge or an eviction; 0 if there was none."""
        if not self.removals:
            return 0
        turn, blocks = self.records[-1]["turn"], self.records[-1]["blocks"]
        return int(turn) - 1 if turn else (int(blocks) - 1) * TURNS_PER_BLOCK

    @property
    def bytes(self) -> int:
        """Memory that its arrays need."""
        arrays = (self.seqs, self.sizes, self.checks, self.codes, self.scales, self.weights)
        return sum(array.nbytes for array in arrays) + self.uses.nbytes + self.records.nbytes

    @cached_property
    def vectors(self) -> Floats:
        """The vectors as float32 ``[n, dim]``."""
        return dequantise(self.codes, self.scales)

    def append(self, seq: int, vectors: Floats) -> Block:
        """Return the block with one more turn, later than all that it has."""
        codes, scales = quantise(vectors, self.precision)
        weights = np.zeros((len(vectors), TURNS_PER_BLOCK), np.int32)
        weights[:, seq - self.first_seq] = 1
        return replace(
            self,
            seqs=np.append(self.seqs, np.int64(seq)),
            sizes=np.append(self.sizes, np.int32(len(vectors))),
            checks=np.append(self.checks, np.int64(check_of(codes, scales))),
            codes=np.concatenate([self.codes, codes]),
            scales=np.concatenate([self.scales, scales]),
            weights=np.concatenate([self.weights, weights]),
        )

    def add_uses(self, reply_seq: int, seqs: Iterable[int]) -> Block:
        """Return the block with the uses that a reply made of its turns."""
        pairs = [(reply_seq, seq) for seq in seqs]
        return replace(self, uses=np.unique(np.array([*self.uses.tolist(), *pairs], np.int64), axis=0))

    def without(self, seqs: Collection[int]) -> Block:
        """Return the block without some turns and without the uses that concern them. Nothing may have been merged."""
        is_kept = ~np.isin(self.seqs, list(seqs))
        turns = self.weights.argmax(axis=1) + self.first_seq
        rows = ~np.isin(turns, list(seqs))
        return replace(
            self,
            seqs=self.seqs[is_kept],
            sizes=self.sizes[is_kept],
            checks=self.checks[is_kept],
            codes=self.codes[rows],
            scales=self.scales[rows],
            weights=self.weights[rows],
            uses=self.uses_without(seqs),
        )

    def uses_without(self, seqs: Collection[int]) -> Integers:
        """Return the uses that neither come from some turns nor are uses of them."""
        return self.uses[~np.isin(self.uses, list(seqs)).any(axis=1)]

    def use_counts(self, cutoff: int | None = None) -> tuple[Integers, Integers]:
        """Return how often each turn was used, and when it was last added or used, each ``[64]``.

        Args:
            cutoff: the latest seq of a reply that counts; None: all count.
        """
        uses = self.uses if cutoff is None else self.uses[self.uses[:, 0] <= cutoff]
        places = uses[:, 1] - self.first_seq
        counts = np.bincount(places, minlength=TURNS_PER_BLOCK)
        latest = np.arange(self.first_seq, self.first_seq + TURNS_PER_BLOCK)
        np.maximum.at(latest, places, uses[:, 0])
        return counts, latest


def frequency(weights: NDArray[np.int32], use_counts: Integers) -> NDArray[np.float64]:
    """Return how often vectors were used, ``[n]``: the mean over their original vectors of the uses of each one's turn.

    Args:
        weights: ``[n, 64]``, see ``Block``.
        use_counts: of each turn, ``[64]``.
    """
    used: NDArray[np.float64] = (weights @ use_counts) / weights.sum(axis=1)
    return used


def recency(weights: NDArray[np.int32], latest: Integers) -> Integers:
    """Return the latest seq at which a turn of each vector was added or used, ``[n]``.

    Args:
        weights: ``[n, 64]``, see ``Block``.
        latest: of each turn, ``[64]``.
    """
    seqs: Integers = np.where(weights > 0, latest, 0).max(axis=1, initial=0)
    return seqs


def turn_mask(weights: NDArray[Any]) -> int:
    """Return the turns that a vector came from as a bit mask: bit 0 is the block's first seq."""
    return int(np.bitwise_or.reduce(_BITS[weights > 0], initial=0))


def turns_of_mask(mask: int, number: int) -> tuple[int, ...]:
    """Return the seqs that a bit mask of a block's turns stands for, ascending."""
    first = number * TURNS_PER_BLOCK + 1
    return tuple(first + place for place in range(TURNS_PER_BLOCK) if mask >> place & 1)
