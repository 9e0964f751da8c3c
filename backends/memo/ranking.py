"""Ranking: learned scores of the segments, by the index alone and by what is regenerated.

Both are linear. The weights minimise a listwise softmax loss over the candidates of a question (Cao et al. 2007, Learning to
Rank), with an L2 penalty; ``benchmarks/fit_recall.py`` fits them and writes ``ranking.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memagent.backends.memo.segments import Segment
from memagent.backends.protocol import Vectors
from memagent.backends.shared.neighbours import with_neighbours
from memagent.backends.shared.text import is_question

WEIGHTS = Path(__file__).with_name("ranking.json")
_RANK_CONSTANT = 3.0
"""Of the reciprocal ranks ``1 / (3 + rank)``. Not varied."""
INDEX_FEATURES = tuple(
    f"{kind}{place}" for kind in ("words", "meaning") for place in ("", "_before", "_after")
)
TEXT_FEATURES = (
    *INDEX_FEATURES,
    "index_score",
    "index_rank",
    "cosine",
    "meaning_times_cosine",
    "cosine_before",
    "cosine_after",
    "speaker_named",
    "log_length",
    "question",
)


@dataclass(frozen=True, slots=True)
class Text:
    """A segment that was regenerated.

    Attributes:
        segment: its place.
        speaker: who said it; empty: the user or the assistant.
        role: of the turn.
        text: its words.
        confidence: lowest probability of a token, 0.5 to 1.
        cosine: of query and text by the multilingual encoder, which takes a tenth of the default embedder's time.
    """

    segment: Segment
    speaker: str
    role: str
    text: str
    confidence: float
    cosine: float


def index_features(words: NDArray[np.float64], meaning: NDArray[np.float64], seqs: Sequence[int]) -> Vectors:
    """Return what the index says of each segment and of those of the turns before and after.

    Args:
        words: of ``SegmentIndex.search``, ``[segments]``.
        meaning: the same.
        seqs: of the segments' turns, ascending.

    Returns:
        float32 ``[segments, features]``, in the order of ``INDEX_FEATURES``. Words are shares of the highest.
    """
    shares = words / max(float(words.max(initial=0.0)), 1e-9)
    columns = [shifted for values in (shares, meaning) for shifted in with_neighbours(values, seqs)]
    return np.stack(columns, axis=1).astype(np.float32)


def text_features(query: str, index: Vectors, scores: Vectors, texts: Sequence[Text]) -> Vectors:
    """Return what the final score of each regenerated segment is computed from.

    Args:
        query: the question.
        index: ``index_features`` of the same segments.
        scores: by the index, ``[segments]``.
        texts: the segments, by seq.

    Returns:
        float32 ``[segments, features]``, in the order of ``TEXT_FEATURES``.
    """
    cosines = np.array([text.cosine for text in texts])
    floor = float(cosines.min(initial=1.0))
    _, before, after = with_neighbours(cosines - floor, [text.segment.seq for text in texts])
    ranks = (-scores).argsort(kind="stable").argsort(kind="stable") + 1
    folded = query.casefold()
    columns = (
        scores - scores.max(initial=-np.inf),
        1 / (_RANK_CONSTANT + ranks),
        cosines,
        index[:, INDEX_FEATURES.index("meaning")] * cosines,
        before,
        after,
        np.array([float(bool(text.speaker) and text.speaker.casefold() in folded) for text in texts]),
        np.array([log(len(text.text) + 1) for text in texts]),
        np.array([float(is_question(text.text)) for text in texts]),
    )
    return np.concatenate([index, np.stack(columns, axis=1)], axis=1).astype(np.float32)
