"""Ranking: learned scores of the turns in a bank, by the keys and the words in their latents, and by the decoded texts of the best.

Both are linear. The weights minimise a listwise softmax loss over the turns of a memory (Cao et al. 2007, Learning to Rank);
``benchmarks/fit_recall.py`` fits them and writes ``ranking.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memagent.backends.context_bank.bank import ContextBank
from memagent.backends.context_bank.latents import LatentCodec, presence
from memagent.backends.protocol import Vectors
from memagent.backends.shared.neighbours import with_neighbours

WEIGHTS = Path(__file__).with_name("ranking.json")
FEATURES = (
    *(f"{kind}{place}" for kind in ("key", "words") for place in ("", "_before", "_after")),
    "named",
    "log_length",
    "question",
)
TEXT_FEATURES = (*FEATURES, "cosine", "cosine_before", "cosine_after")
SHORTLIST = 32
"""Turns whose latents are decoded for the second score. With 16 recall@10 on LoCoMo is 0.01 lower, with 48 the same."""
EXCERPT = 4
"""Vectors of a long turn that are decoded, so that a recall does not cost more for long turns than for short ones."""
_PRIOR_TURNS = 32
"""The mean key of a bank is subtracted from all, as if so many turns with a mean of 0 stood before them: a single turn stays."""
_MIN_PRESENCE = 0.5
_MERGED_KEY = 0.43
"""A turn whose vectors are merged has lost its words, so its key counts more, by at most this share of the fitted weight. 0, 0.43 and
0.86 were tried on the LoCoMo conversations conv-26, conv-30 and conv-41: at half the needed capacity recall@10 is 0.48, 0.57 and 0.58,
at a quarter 0.45, 0.45 and 0.43."""


@dataclass(frozen=True)
class TurnTable:
    """A bank by turns.

    Attributes:
        seqs: of the turns, ascending, ``[turns]``.
        keys: unit vectors, centred, ``[turns, key_size]``.
        centre: the mean key of the turns, which was subtracted from them, ``[key_size]``.
        log_lengths: logarithm of the number of tokens, ``[turns]``.
        questions: 1 for a turn with a question mark, ``[turns]``.
        vectors: of each source, the vector that it is merged in, ``[sources]``.
        turns: of each source, the turn that it comes from, ``[sources]``.
        merged: share of a turn's original vectors that are merged with others, ``[turns]``.
        whole: of each vector, whether it is of one turn and nothing is merged in it, ``[vectors]``.
        codes: token codes, ``[vectors, ratio, token_size]``.
    """

    seqs: NDArray[np.int64]
    keys: Vectors
    centre: Vectors
    log_lengths: NDArray[np.float64]
    questions: NDArray[np.float64]
    vectors: NDArray[np.int64]
    turns: NDArray[np.int64]
    merged: NDArray[np.float64]
    whole: NDArray[np.bool_]
    codes: Vectors

    @classmethod
    def of(cls, bank: ContextBank, codec: LatentCodec) -> TurnTable:
        """Return the turns of a bank."""
        sources = bank.sources
        vectors = np.repeat(np.arange(len(bank)), np.diff(sources.indptr))
        seqs, turns = np.unique(sources.seqs, return_inverse=True)
        keys = np.zeros((len(seqs), codec.key_size), np.float32)
        np.add.at(keys, turns, bank.vectors[vectors, : codec.key_size] * sources.weights[:, None])
        codes = codec.codes(bank.vectors)
        # The codes of merged vectors are means, which tell nothing of the number of tokens: their blocks count as full.
        tokens = (np.square(codes).sum(axis=2) > _MIN_PRESENCE).sum(axis=1)
        tokens[bank.counts > 1] = codes.shape[1]
        lengths = np.bincount(turns, tokens[vectors] * sources.weights, len(seqs)).astype(np.float64)
        keys /= np.maximum(lengths, 1.0)[:, None]
        centre = keys.sum(axis=0) / (len(keys) + _PRIOR_TURNS)
        merged = np.bincount(turns, sources.weights * (bank.counts[vectors] > 1), len(seqs))
        table = cls(
            seqs,
            unit(keys - centre),
            centre,
            np.log1p(lengths),
            np.zeros(len(seqs)),
            vectors,
            turns,
            merged / np.maximum(np.bincount(turns, sources.weights, len(seqs)), 1),
            bank.counts == 1,
            codes,
        )
        marks, _ = table.presence([mark[None] for mark in codec.question_mark])
        table.questions[:] = table.highest(marks) > _MIN_PRESENCE
        return table

    def presence(self, forms: Sequence[Vectors]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return how surely a word stands in each vector; 0 where something is merged.

        Args:
            forms: of each spelling the codes of its tokens, ``[tokens, token_size]``.

        Returns:
            At any place, and at the first place, where a turn has its speaker's name: each ``[vectors]``, 0 to 1.
        """
        shape = self.codes.shape[:2]
        places = presence(self.codes.reshape(-1, self.codes.shape[2]), forms).max(axis=1).reshape(shape)
        return places.max(axis=1) * self.whole, places[:, 0] * self.whole

    def highest(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the highest value of each turn's vectors, ``[turns]``.

        Args:
            values: ``[vectors]``, 0 or more.
        """
        highest = np.zeros(len(self.seqs))
        np.maximum.at(highest, self.turns, values[self.vectors])
        return highest

    def vectors_of(self, turn: int) -> NDArray[np.int64]:
        """Return the vectors of a turn, by its row, in order."""
        return np.sort(self.vectors[self.turns == turn])

    def excerpt(self, vectors: NDArray[np.int64], coverage: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return ``EXCERPT`` vectors in a row that hold most of a question's words; none if everywhere something is merged.

        Args:
            vectors: those of a turn, in order.
            coverage: of ``Comparison``, ``[vectors of the bank]``.
        """
        windows = np.lib.stride_tricks.sliding_window_view(vectors, min(EXCERPT, len(vectors)))
        windows = windows[self.whole[windows].all(axis=1)]
        return windows[coverage[windows].sum(axis=1).argmax()] if len(windows) else vectors[:0]


@dataclass(frozen=True)
class Comparison:
    """What speaks for the turns of a bank.

    Attributes:
        key: of the question, ``[key_size]``.
        cosines: of it and the turns' keys, all centred, ``[turns]``.
        coverage: idf-weighted share of the question's content words that a turn's latents hold, 0 to 1, ``[turns]``.
        vector_coverage: the same of each vector, ``[vectors]``.
        features: ``[turns, len(FEATURES)]``.
    """

    key: Vectors
    cosines: Vectors
    coverage: NDArray[np.float64]
    vector_coverage: NDArray[np.float64]
    features: Vectors


def compare(table: TurnTable, key: Vectors, words: Sequence[Sequence[Vectors]]) -> Comparison:
    """Compare a question with all turns of a bank.

    Args:
        table: the turns.
        key: of the question, ``[key_size]``.
        words: of ``LatentCodec.word_codes``.
    """
    cosines = table.keys @ unit(key - table.centre)
    coverage, named, total = np.zeros(len(table.seqs)), np.zeros(len(table.seqs)), 0.0
    vector_coverage = np.zeros(len(table.whole))
    for forms in words:
        of_vectors, at_first = table.presence(forms)
        likely, first = table.highest(of_vectors), table.highest(at_first)
        number = float((likely > _MIN_PRESENCE).sum())
        idf = float(np.log1p((len(likely) - number + 0.5) / (number + 0.5)))
        coverage += idf * likely
        vector_coverage += idf * of_vectors
        total += idf
        named = np.maximum(named, first)
    coverage /= max(total, 1e-9)
    vector_coverage /= max(total, 1e-9)
    seqs = table.seqs.tolist()
    own, *neighbours = with_neighbours(cosines.astype(np.float64), seqs)
    columns = (
        own * (1 + _MERGED_KEY * table.merged),
        *neighbours,
        *with_neighbours(coverage, seqs),
        named,
        table.log_lengths,
        table.questions,
    )
    return Comparison(key, cosines, coverage, vector_coverage, np.stack(columns, axis=1).astype(np.float32))


def text_features(features: Vectors, cosines: NDArray[np.float64], seqs: Sequence[int]) -> Vectors:
    """Return what the second score of the best turns is computed from.

    Args:
        features: those of the first score, ``[turns, len(FEATURES)]``.
        cosines: of question and decoded text by the multilingual encoder, ``[turns]``; NaN where the text is not known. Such a
            turn counts as an average one.
        seqs: of the turns, ascending.

    Returns:
        float32 ``[turns, len(TEXT_FEATURES)]``.
    """
    known = cosines[~np.isnan(cosines)]
    cosines = np.where(np.isnan(cosines), known.mean() if len(known) else 0.0, cosines)
    _, before, after = with_neighbours(cosines - cosines.min(initial=1.0), seqs)
    return np.concatenate([features, np.stack([cosines, before, after], axis=1)], axis=1).astype(np.float32)


def unit(vectors: Vectors) -> Vectors:
    """Return vectors ``[..., n]`` scaled to length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32)
