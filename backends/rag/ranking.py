"""Ranking: one learned score for each turn, out of all that the two searches know of it and of the turns around it.

The score is linear in the features below. A turn e times as likely to be the one that answers scores 1 higher: the weights
minimise a listwise softmax loss over all candidates of a question (Cao et al. 2007, Learning to Rank), with an L2 penalty.
``benchmarks/fit_recall.py`` fits them and writes ``ranking.json``; it names the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from memagent.backends.protocol import Vectors
from memagent.backends.shared.linear import weight_vector
from memagent.backends.shared.text import is_question, normalize

WEIGHTS = Path(__file__).with_name("ranking.json")
WEIGHT_SET = "all embedders"
_NEIGHBOURS = (-1, 1)
_RANK_CONSTANT = 3.0
"""Of the reciprocal ranks ``1 / (3 + rank)``. Not varied."""
FEATURES = (
    "cosine",
    "bm25",
    "own_bm25",
    *(f"{kind}_at_{place:+d}" for place in _NEIGHBOURS for kind in ("cosine", "bm25")),
    "speaker_named",
    "log_length",
    "question",
    "cosine_rank",
    "bm25_rank",
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A turn that one of the searches found, as the best of its chunks.

    Attributes:
        key: of the chunk with the highest cosine, or with the highest BM25 score if no vector of the turn was found.
        seq: of the turn.
        session: of the turn.
        created_at: of the turn.
        speaker: of the turn, if it names one.
        by_assistant: the assistant said it.
        text: of the chunk.
        cosine: highest cosine of a vector of the turn, or the lowest that the vector search found if it did not reach the turn.
        cosine_rank: among the turns, from 1; None: not reached.
        bm25: BM25 score with the words of the turns before; 0: the full-text search did not reach it.
        own_bm25: BM25 score of the chunk's own words.
        bm25_rank: among the turns, from 1; None: not reached.
    """

    key: str
    seq: int
    session: str
    created_at: datetime
    speaker: str | None
    by_assistant: bool
    text: str
    cosine: float
    cosine_rank: int | None
    bm25: float
    own_bm25: float
    bm25_rank: int | None

    @property
    def author(self) -> tuple[str | None, bool]:
        """Who said it."""
        return self.speaker, self.by_assistant


@dataclass(frozen=True, slots=True)
class Ranked:
    """The turns of the same words by the same speaker, with their score.

    Attributes:
        repeats: the turns; those of people stand before those of the assistant, then the newest first.
        score: the highest of them, in nats; only differences between scores mean something.
    """

    repeats: tuple[Candidate, ...]
    score: float

    @property
    def candidate(self) -> Candidate:
        """The turn that stands for all."""
        return self.repeats[0]

    @property
    def seqs(self) -> tuple[int, ...]:
        """Of all turns."""
        return tuple(item.seq for item in self.repeats)


def features(query: str, candidates: Sequence[Candidate]) -> Vectors:
    """Return what the score of each candidate is computed from.

    Args:
        query: the question.
        candidates: all that the searches found for it.

    Returns:
        float32 ``[candidates, features]``, in the order of ``FEATURES``. BM25 scores are shares of the highest.
    """
    floor = min((item.cosine for item in candidates), default=0.0)
    highest = max((item.bm25 for item in candidates), default=0.0) or 1.0
    highest_own = max((item.own_bm25 for item in candidates), default=0.0) or 1.0
    own = [item.own_bm25 / highest_own for item in candidates]
    places = {(item.session, item.seq): place for place, item in enumerate(candidates)}
    folded = query.casefold()
    rows = []
    for place, item in enumerate(candidates):
        neighbours: list[float] = []
        for step in _NEIGHBOURS:
            other = places.get((item.session, item.seq + step))
            # Who goes on speaking changes the subject; who answers does not.
            answers = other is not None and candidates[other].author != item.author
            neighbours += (
                (candidates[other].cosine - floor, own[other])
                if other is not None and answers
                else (0.0, 0.0)
            )
        rows.append(
            (
                item.cosine,
                item.bm25 / highest,
                own[place],
                *neighbours,
                float(bool(item.speaker) and str(item.speaker).casefold() in folded),
                math.log(len(item.text) + 1),
                float(is_question(item.text)),
                _reciprocal(item.cosine_rank),
                _reciprocal(item.bm25_rank),
            )
        )
    return np.asarray(rows, dtype=np.float32).reshape(len(rows), len(FEATURES))


def rank(query: str, candidates: Sequence[Candidate], *, asks: bool) -> list[Ranked]:
    """Return the candidates, best first. Turns of the same words are one; turns that only ask the same question are none.

    Args:
        query: the question.
        candidates: all that the searches found for it.
        asks: the query asks for something; a turn of the same words then asked it before and is no answer.
    """
    question = normalize(query) if asks else None
    scores = (features(query, candidates) @ weight_vector(WEIGHTS, WEIGHT_SET, FEATURES)).tolist()
    by_words: dict[tuple[str, str | None], list[tuple[float, Candidate]]] = {}
    for candidate, score in zip(candidates, scores, strict=True):
        words = normalize(candidate.text)
        if words != question:
            by_words.setdefault((words, candidate.speaker), []).append((score, candidate))
    ranked = [
        Ranked(
            tuple(sorted((item for _, item in repeats), key=lambda item: (item.by_assistant, -item.seq))),
            max(score for score, _ in repeats),
        )
        for repeats in by_words.values()
    ]
    return sorted(ranked, key=lambda item: (-item.score, min(item.seqs)))


def _reciprocal(rank: int | None) -> float:
    return 0.0 if rank is None else 1 / (_RANK_CONSTANT + rank)
