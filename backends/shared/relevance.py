"""Abstention: which of the best-ranked turns are relevant enough for a place in a prompt.

The best hit of a search always exists; for most messages of a chat it is noise. A logistic regression gives each of the best
turns the probability that it bears on the message, out of features that hold for any language. Turns below the threshold are
dropped, and with them those that are much less likely than the best: small models answer from distractors.

A memory's weights are in its own folder; ``benchmarks/fit_recall.py`` fits them. ``docs/relevance.md`` has the error rates and the
data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memagent.backends.protocol import Vectors
from memagent.backends.shared.linear import weight_vector
from memagent.backends.shared.text import fold, is_question, normalize
from memagent.backends.shared.words import literals

_MIN_LITERAL = 3
"""Letters and digits of a code that is compared; shorter numbers are everywhere."""
_BACKGROUND = 7
"""The best other turns, from which a relevant one stands out; the weights are fitted for so many."""
FEATURES = (
    "cosine",
    "multilingual_cosine",
    "cosine_above_background",
    "multilingual_cosine_above_background",
    "background_missing",
    "coverage",
    "literal",
    "literal_missing",
    "need",
    "asks",
    "asks_times_cosine",
    "asks_times_multilingual_cosine",
    "asks_times_coverage",
    "product_of_cosines",
    "score_below_best",
    "question",
    "by_assistant",
    "bias",
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the relevance of one turn is judged by.

    Attributes:
        cosine: cosine similarity of message and turn, of the memory's embedder, -1 to 1; of a memory without one, the
            multilingual encoder's.
        multilingual_cosine: the same of the multilingual encoder.
        coverage: idf-weighted share of the message's content words that the turn holds, 0 to 1.
        score: of the search, in nats.
        text: the words of the turn.
        by_assistant: the assistant said it: it may be a guess.
    """

    cosine: float
    multilingual_cosine: float
    coverage: float
    score: float
    text: str
    by_assistant: bool = False


def features(message: str, need: float, evidence: Sequence[Evidence]) -> Vectors:
    """Return what the relevance of each turn is computed from.

    Args:
        message: the message.
        need: of the message, see ``memory_need``.
        evidence: of the best-ranked turns, best first.

    Returns:
        float32 ``[turns, features]``, in the order of ``FEATURES``.
    """
    codes = {code for code in literals(message) if len(code) >= _MIN_LITERAL}
    asks = 1 / (1 + math.exp(-need))
    statements: dict[str, Evidence] = {}
    for item in evidence:
        if not is_question(item.text):
            statements.setdefault(normalize(item.text), item)
    rows = []
    for item in evidence:
        # A question that was asked before displaces no statement, and a statement not its own repetitions.
        own_words = normalize(item.text)
        others = [other for words, other in statements.items() if words != own_words][:_BACKGROUND]
        best = max([item.score, *(other.score for other in others)])
        literal = len(codes.intersection(literals(item.text))) / len(codes) if codes else 0.0
        rows.append(
            (
                item.cosine,
                item.multilingual_cosine,
                item.cosine - sum(other.cosine for other in others) / _BACKGROUND,
                item.multilingual_cosine - sum(other.multilingual_cosine for other in others) / _BACKGROUND,
                # Its weight learns what those that a small memory lacks would score.
                1.0 - len(others) / _BACKGROUND,
                item.coverage,
                literal,
                1.0 - literal if codes else 0.0,
                need,
                asks,
                asks * item.cosine,
                asks * item.multilingual_cosine,
                asks * item.coverage,
                max(item.cosine, 0.0) * max(item.multilingual_cosine, 0.0),
                item.score - best,
                float(is_question(item.text)),
                float(item.by_assistant),
                1.0,
            )
        )
    return np.asarray(rows, dtype=np.float32).reshape(len(rows), len(FEATURES))


def probabilities(
    message: str, need: float, evidence: Sequence[Evidence], weights: Path, weight_set: str
) -> list[float]:
    """Return for each turn the probability that it bears on the message.

    Args:
        message: as in ``features``.
        need: as in ``features``.
        evidence: as in ``features``.
        weights: a file with sets of weights.
        weight_set: the name of one of them.
    """
    rows = features(message, need, evidence)
    chances = 1 / (1 + np.exp(-rows @ weight_vector(weights, weight_set, FEATURES)))
    is_bare_code = "".join(filter(str.isalnum, fold(message))) in literals(message)
    if is_bare_code:  # only a turn that holds it can answer
        chances *= rows[:, FEATURES.index("literal")]
    return chances.tolist()  # type: ignore[no-any-return]


def select(chances: Sequence[float], questions: Sequence[bool], threshold: float, margin: float) -> list[int]:
    """Return the places of the turns that are relevant: statements, then questions, each in the order given.

    Args:
        chances: of the turns, see ``probabilities``.
        questions: whether a turn only asks something. Such a turn never displaces a statement.
        threshold: lowest probability of a relevant turn.
        margin: lowest share of the best statement's probability.
    """
    relevant = [place for place, chance in enumerate(chances) if chance >= threshold]
    statements = [chances[place] for place in relevant if not questions[place]]
    best = max(statements or [chances[place] for place in relevant], default=0.0)
    return sorted((place for place in relevant if chances[place] >= margin * best), key=questions.__getitem__)
