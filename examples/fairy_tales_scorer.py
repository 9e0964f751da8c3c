"""Telling from an answer alone which tale, or none, was in memory; and how sure one can be of the figures.

Each tale gets a unigram language model with add-k smoothing, fitted on its text without the words that all tales have
in common. An answer's score for a tale is the log-likelihood ratio to the mean of all tales' models. The best tale is
the guess, or none if its score does not pass a threshold. The threshold is chosen, for each question, on the answers
to the other questions. If memory changed nothing, the answers to a question would all be alike, so exactly one of
the conditions would be guessed right: chance is one in as many as there are conditions.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

import numpy as np
from fairy_tales_measure import NONE, Measured, Tale

SMOOTHING = 0.5
DRAWS = 10_000
QUOTE_WORDS = 5
_SNIPPET_WORDS = 25
_WORD = re.compile(r"[a-z]+(?:['’][a-z]+)?")


def words(text: str) -> list[str]:
    return [word.removesuffix("'s").removesuffix("’s") for word in _WORD.findall(text.lower())]


class Scorer:
    """Unigram models of tales.

    Args:
        counts: how often each word is in each tale.
    """

    def __init__(self, counts: Mapping[str, Counter[str]]) -> None:
        common = set.intersection(*(set(one) for one in counts.values()))
        self._vocabulary = set.union(*(set(one) for one in counts.values())) - common
        self._counts = counts
        self._totals = {
            name: sum(number for word, number in one.items() if word not in common)
            for name, one in counts.items()
        }

    @classmethod
    def of(cls, tales: Sequence[Tale]) -> Scorer:
        return cls({tale.name: Counter(words(" ".join(tale.paragraphs))) for tale in tales})

    def scores(self, text: str) -> dict[str, float]:
        """Return each tale's log-likelihood ratio; all 0 for a text without a telling word."""
        found = dict.fromkeys(self._counts, 0.0)
        for word in words(text):
            if word in self._vocabulary:
                likely = {name: self._probability(name, word) for name in self._counts}
                middle = mean(likely.values())
                for name, value in likely.items():
                    found[name] += math.log(value / middle)
        return found

    def best(self, text: str) -> tuple[str, float]:
        scores = self.scores(text)
        name = max(scores, key=lambda one: scores[one])
        return name, scores[name]

    def _probability(self, name: str, word: str) -> float:
        return (self._counts[name][word] + SMOOTHING) / (
            self._totals[name] + SMOOTHING * len(self._vocabulary)
        )


def threshold(best: Sequence[tuple[str, str, float]]) -> float:
    """Choose what a best score must pass, so that most of ``(truth, guess, score)`` come out right."""
    values = sorted({score for _, _, score in best})
    candidates = [
        -math.inf,
        *((low + high) / 2 for low, high in pairwise(values)),
        math.inf,
    ]

    def right(least: float) -> int:
        return sum(truth == (guess if score > least else NONE) for truth, guess, score in best)

    return max(candidates, key=right)


def guesses(scorer: Scorer, answers: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Guess the condition of each answer, by question and true condition."""
    best = {
        question: {truth: scorer.best(text) for truth, text in by_truth.items()}
        for question, by_truth in answers.items()
    }
    made: dict[str, dict[str, str]] = {}
    for question, by_truth in best.items():
        others = [
            (truth, *found) for other in best if other != question for truth, found in best[other].items()
        ]
        least = threshold(others)
        made[question] = {
            truth: guess if score > least else NONE for truth, (guess, score) in by_truth.items()
        }
    return made


def accuracy(made: Mapping[str, Mapping[str, str]], seed: int = 0) -> dict[str, Any]:
    """Count right guesses; the interval resamples questions, the p-value shuffles the conditions of a question."""
    right = np.array([[truth == guess for truth, guess in row.items()] for row in made.values()], float)
    draw = np.random.default_rng(seed)
    resampled = right.mean(1)[draw.integers(len(right), size=(DRAWS, len(right)))].mean(1)
    shuffled = np.zeros(DRAWS)
    for row in made.values():
        truths, guessed = np.array(list(row)), np.array(list(row.values()))
        order = np.argsort(draw.random((DRAWS, len(truths))), axis=1)
        shuffled += (truths[order] == guessed).sum(1)
    return {
        "right": int(right.sum()),
        "answers": right.size,
        "accuracy": float(right.mean()),
        "interval_95": [float(one) for one in np.quantile(resampled, [0.025, 0.975])],
        "p_shuffled": float((1 + (shuffled >= right.sum()).sum()) / (1 + DRAWS)),
        "chance": 1 / right.shape[1],
    }


def check(tales: Sequence[Tale]) -> dict[str, float]:
    """How often the scorer knows the tale of a snippet of its own text, the snippet left out of the fit."""
    counts = {tale.name: Counter(words(" ".join(tale.paragraphs))) for tale in tales}
    right, snippets = 0, 0
    for tale in tales:
        text = words(" ".join(tale.paragraphs))
        for start in range(0, len(text) - _SNIPPET_WORDS, 10 * _SNIPPET_WORDS):
            snippet = text[start : start + _SNIPPET_WORDS]
            rest = {**counts, tale.name: counts[tale.name] - Counter(snippet)}
            right += Scorer(rest).best(" ".join(snippet))[0] == tale.name
            snippets += 1
    return {
        "snippets": snippets,
        "words": _SNIPPET_WORDS,
        "accuracy": right / snippets,
        "chance": 1 / len(tales),
    }


def quotes(text: str, tale: Tale) -> bool:
    """Whether some words in a row stand in the tale too."""
    said, told = words(text), f" {' '.join(words(' '.join(tale.paragraphs)))} "
    return any(
        f" {' '.join(said[at : at + QUOTE_WORDS])} " in told for at in range(len(said) - QUOTE_WORDS + 1)
    )


def summarise(
    settings: Mapping[str, Any], tales: Sequence[Tale], measured: Sequence[Measured]
) -> dict[str, Any]:
    """Put all figures together; they are of what is measured so far."""
    without = {one.question: one.answer for one in measured if one.mode == NONE}
    scorer = Scorer.of(tales)
    by_name = {tale.name: tale for tale in tales}
    modes: dict[str, Any] = {}
    for mode in dict.fromkeys(one.mode for one in measured if one.mode != NONE):
        rows = [one for one in measured if one.mode == mode]
        answers: dict[str, dict[str, str]] = defaultdict(dict)
        for question, text in without.items():
            answers[question][NONE] = text
        for one in rows:
            answers[one.question][one.tale] = one.answer
        made = guesses(scorer, answers)
        modes[mode] = {
            "kl_mean": mean(one.kl for one in rows),
            "kl_by_tale": _mean_by(rows, "tale"),
            "kl_by_question": _mean_by(rows, "question"),
            "unchanged_answers": sum(one.answer == without[one.question] for one in rows),
            "quoting_answers": sum(quotes(one.answer, by_name[one.tale]) for one in rows),
            "told": accuracy(made),
            "right_by_condition": _right(made),
            "guessed": made,
        }
    return {
        "settings": dict(settings),
        "titles": {tale.name: tale.title for tale in tales},
        "modes": modes,
        "quoting_without_memory": sum(any(quotes(text, tale) for tale in tales) for text in without.values()),
        "scorer_on_the_tales": check(tales),
        "answers": [one.as_json() for one in measured],
    }


def _mean_by(rows: Sequence[Measured], field: str) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for one in rows:
        found[getattr(one, field)].append(one.kl)
    return {name: mean(values) for name, values in found.items()}


def _right(made: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    conditions = dict.fromkeys(truth for row in made.values() for truth in row)
    return {name: sum(row[name] == name for row in made.values()) for name in conditions}
