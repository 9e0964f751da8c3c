"""The index: correlation matrices from sparse keys, the words and the meaning of a text, to the sparse code of its segment.

Keys and codes have few active places, as in Willshaw et al. 1969 ("Non-holographic associative memory"): a word has ``WORD_ROWS``
rows, an embedding the ``MEANING_ROWS`` rows on whose random directions its projection is largest, a segment
``CODE_COLUMNS`` columns. Each matrix counts how often row and column were active together. The lowest count among a segment's columns
tells whether the segment has the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memagent.backends.memo.config import (
    CODE_COLUMNS,
    COLUMNS,
    MEANING_ROWS,
    ROWS,
    TURNS_PER_INDEX,
    WORD_ROWS,
)
from memagent.backends.memo.segments import Segment
from memagent.backends.neural.memo.vectors import signs
from memagent.backends.protocol import Vectors
from memagent.backends.shared.words import content_words
from memagent.kernels.cmm import accumulate

_PREFIX = 5
"""Letters of a word that count: "painted" and "paintings" are one word. A Snowball stemmer has the same recall, for one language."""
_MAX_QUERY_WORDS = 256
"""The first words of a query that count; a pasted document has more."""
KINDS = ("words", "meaning")
Rows = Mapping[str, Sequence[int]]
"""The active rows of a segment, ascending, by kind."""


def index_words(text: str) -> list[str]:
    """Return the distinct words of a text as they are indexed: content words, their ends cut off unless they are codes."""
    words = content_words(text)
    return list(dict.fromkeys(word if any(map(str.isdigit, word)) else word[:_PREFIX] for word in words))


def active(name: str, size: int, count: int) -> list[int]:
    """Return ``count`` different places below ``size``, ascending, as a function of a name."""
    places: set[int] = set()
    stream = hashlib.shake_128(name.encode()).digest(16 * count)
    for start in range(0, len(stream), 2):
        if len(places) < count:
            places.add(int.from_bytes(stream[start : start + 2], "little") % size)
    return sorted(places)


class SegmentIndex:
    """Finds segments by their words and by their embedding.

    Args:
        seed: of all random places and directions.
    """

    def __init__(self, seed: int) -> None:
        self.matrices: dict[tuple[str, int], Tensor] = {}
        self._seed = seed
        self._directions: Vectors | None = None

    def word_rows(self, text: str) -> list[int]:
        """Return the active rows of a text's words."""
        return sorted({row for word in index_words(text) for row in self._rows_of(word)})

    def meaning_rows(self, centred: Vectors) -> list[int]:
        """Return the active rows of an embedding ``[dim]``, of which the centre has been subtracted."""
        if self._directions is None:
            size = -(-ROWS * len(centred) // 8) * 8
            drawn = signs(self._seed, "directions", 0, size).numpy()[: ROWS * len(centred)]
            self._directions = drawn.reshape(ROWS, len(centred)).astype(np.float32)
        projections = self._directions @ centred
        return sorted(np.argsort(-projections, kind="stable")[:MEANING_ROWS].tolist())

    def columns(self, segment: Segment) -> list[int]:
        """Return the active columns of a segment's code."""
        return active(f"{self._seed} code {segment.turn_id} {segment.part}", COLUMNS, CODE_COLUMNS)

    def write(self, segments: Sequence[tuple[Segment, Rows]], *, subtract: bool = False) -> None:
        """Add segments with their active rows of each kind, or subtract what was added before."""
        groups: dict[tuple[str, int], list[tuple[Segment, Sequence[int]]]] = {}
        for segment, rows in segments:
            for kind in KINDS:
                if rows[kind]:
                    groups.setdefault((kind, segment.seq // TURNS_PER_INDEX), []).append(
                        (segment, rows[kind])
                    )
        for place, group in groups.items():
            if place not in self.matrices:
                self.matrices[place] = torch.zeros(ROWS, COLUMNS, dtype=torch.int32)
            keys = torch.stack([_indicator(rows, ROWS) for _, rows in group])
            values = torch.stack([_indicator(self.columns(segment), COLUMNS) for segment, _ in group])
            accumulate(self.matrices[place], keys, values, subtract=subtract)
            if subtract and not self.matrices[place].any():
                del self.matrices[place]

    def search(
        self, query: str, centred: Vectors, segments: Sequence[Segment], columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return how much of a query each segment has.

        Args:
            query: the words.
            centred: the embedding ``[dim]``, of which the centre has been subtracted.
            segments: all that are stored.
            columns: ``[segments, CODE_COLUMNS]``, of each.

        Returns:
            The inverse document frequencies of the query's words that a segment has, summed; and the share of the query's
            meaning rows that it has, 0 to 1. Each ``[segments]``.
        """
        words, meaning = np.zeros(len(segments)), np.zeros(len(segments))
        blocks = np.array([segment.seq // TURNS_PER_INDEX for segment in segments])
        places = {int(block): np.flatnonzero(blocks == block) for block in np.unique(blocks)}
        word_rows = [self._rows_of(word) for word in index_words(query)[:_MAX_QUERY_WORDS]]
        if word_rows:
            frequencies, present = np.zeros(len(word_rows)), {}
            for block in places.keys() & {block for kind, block in self.matrices if kind == "words"}:
                cells = self.matrices["words", block][torch.tensor(word_rows)]  # [words, WORD_ROWS, COLUMNS]
                frequencies += cells.sum(2).amin(1).numpy() / CODE_COLUMNS
                present[block] = (cells.amin(1).numpy()[:, columns[places[block]]] > 0).all(axis=2)
            weights = np.log(1 + len(segments) / (1 + frequencies))
            for block, has_word in present.items():
                words[places[block]] = weights @ has_word
        meaning_rows = self.meaning_rows(centred)
        for block, own in places.items():
            counts = self.matrices["meaning", block][meaning_rows].sum(0).numpy()[columns[own]]
            # The two lowest of the columns: others are shared with other segments.
            meaning[own] = np.sort(counts, axis=1)[:, :2].mean(axis=1) / MEANING_ROWS
        return words, meaning

    def tensors(self) -> dict[str, Tensor]:
        """Return the state: of each matrix the places that are not 0, and their counts; most are 0."""
        tensors = {}
        for (kind, block), matrix in self.matrices.items():
            places = matrix.flatten().nonzero()[:, 0]
            tensors[f"{kind}.{block}.places"] = places.to(torch.int32)
            tensors[f"{kind}.{block}.counts"] = matrix.flatten()[places]
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], blocks: set[int]) -> None:
        """Take over a stored state.

        Args:
            tensors: what ``tensors`` returned.
            blocks: those that the stored segments need.

        Raises:
            ValueError: a matrix is missing, too many, or has places beyond its size.
        """
        unread = dict(tensors)
        for kind, block in product(KINDS, sorted(blocks)):
            places = unread.pop(f"{kind}.{block}.places", None)
            counts = unread.pop(f"{kind}.{block}.counts", None)
            if places is None and counts is None and kind == "words":
                continue  # of texts without any words
            if (
                places is None
                or counts is None
                or places.shape != counts.shape
                or counts.dtype != torch.int32
            ):
                raise ValueError(f"the index matrix {kind} {block} is missing or of another type")
            if not len(places) or not 0 <= int(places.min()) <= int(places.max()) < ROWS * COLUMNS:
                raise ValueError(f"the index matrix {kind} {block} has places beyond its size")
            if int(counts.min()) < 1:
                raise ValueError(f"the index matrix {kind} {block} has a count below 1")
            matrix = torch.zeros(ROWS * COLUMNS, dtype=torch.int32)
            matrix[places.long()] = counts
            self.matrices[kind, block] = matrix.view(ROWS, COLUMNS)
        if unread:
            raise ValueError(f"its index has {', '.join(unread)}, which none of its segments needs")

    def _rows_of(self, word: str) -> list[int]:
        """Return the active rows of a word, drawn by word and seed."""
        return active(f"{self._seed} word {word}", ROWS, WORD_ROWS)


def _indicator(places: Sequence[int], size: int) -> Tensor:
    indicator = torch.zeros(size, dtype=torch.int8)
    indicator[list(places)] = 1
    return indicator
