"""From a run's rows to its summary: means, percentiles, and how sure each difference is."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

from memagent.agent.evaluation.baselines import BASELINES, CHANCE, SESSION_BM25
from memagent.agent.evaluation.metrics import KS, bootstrap_difference
from memagent.agent.evaluation.rows import JudgeRow, RankRow, Scores, SizeRow, WriteRow
from memagent.agent.evaluation.run import REFERENCE, Manifest, Run
from memagent.backends.registry import CONTROL

Level = Literal["turn", "session"]
LEVELS: tuple[Level, ...] = ("turn", "session")
HEADLINE_K = 10
HEADLINE = f"recall@{HEADLINE_K}"
AGAINST: Mapping[Level, str] = {"turn": REFERENCE, "session": SESSION_BM25}
"""The method that the others are compared with at each level."""


@dataclass(frozen=True)
class Recall:
    """Mean recall over some questions, by k; None if there are no questions."""

    questions: int
    recall: Mapping[int, float | None]

    def fields(self) -> dict[str, Any]:
        """Return the figures by their stable names."""
        return {"questions": self.questions} | {f"recall@{k}": mean for k, mean in self.recall.items()}


@dataclass(frozen=True)
class Cost:
    """What a memory costs; None where nothing was measured.

    Attributes:
        write_ms_per_turn: mean time to remember a turn, in milliseconds.
        recall_ms_median, recall_ms_p95: time of a recall, in milliseconds.
        bytes_per_turn: size of the stored state.
        model_calls_per_turn, model_calls_per_recall: mean calls of the embedder and passes of the language model.
    """

    write_ms_per_turn: float | None
    recall_ms_median: float | None
    recall_ms_p95: float | None
    bytes_per_turn: float | None
    model_calls_per_turn: float | None
    model_calls_per_recall: float | None


@dataclass(frozen=True)
class Abstention:
    """How well an empty recall tells that nothing is relevant.

    Attributes:
        unanswerable: questions without an answer.
        abstained: questions for which nothing was recalled.
        precision: share of abstentions that were right.
        recall: share of unanswerable questions abstained on.
        base_rate: share of unanswerable questions, the precision of abstaining always.
    """

    unanswerable: int
    abstained: int
    precision: float | None
    recall: float | None
    base_rate: float


@dataclass(frozen=True)
class Answers:
    """How many questions the model answered, and their mean token F1, 0 to 1."""

    questions: int
    token_f1: float | None


@dataclass(frozen=True)
class Result:
    """The figures of one method at one level.

    Attributes:
        backend: the memory, or the baseline.
        categories: what the reported categories are called.
        total: recall over all questions that count: answerable, with evidence at this level.
        mrr: mean reciprocal rank; None for chance.
        by_category: recall by the benchmark's categories.
        cost, abstention, answers: at level turn only, and not of baselines.
    """

    backend: str
    level: Level
    categories: str
    total: Recall
    mrr: float | None
    by_category: Mapping[str, Recall]
    cost: Cost | None = None
    abstention: Abstention | None = None
    answers: Answers | None = None

    def fields(self) -> dict[str, Any]:
        """Return the figures by their stable names."""
        fields: dict[str, Any] = {
            "backend": self.backend,
            "level": self.level,
            "categories": self.categories,
            **self.total.fields(),
            "mrr": self.mrr,
            "by_category": {name: recall.fields() for name, recall in self.by_category.items()},
        }
        if self.cost is not None:
            fields["cost"] = asdict(self.cost)
            fields["abstention"] = None if self.abstention is None else asdict(self.abstention)
        if self.answers is not None:
            fields["answers"] = asdict(self.answers)
        return fields


@dataclass(frozen=True)
class Difference:
    """The mean difference of a metric, ``backend`` minus ``against``, and its 95 % confidence interval."""

    level: Level
    metric: str
    backend: str
    against: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """A run's result: one row per method and level, and a paired bootstrap of every two methods."""

    manifest: Manifest
    results: Sequence[Result]
    differences: Sequence[Difference]

    def fields(self) -> dict[str, Any]:
        """Return the summary by the stable names of the command line's JSON."""
        return {
            "manifest": self.manifest.model_dump(),
            "results": [result.fields() for result in self.results],
            "differences": [asdict(difference) for difference in self.differences],
        }


def summarise(run: Run, categories: str) -> Summary:
    """Sum up a run.

    A ranking counts where the question is answerable and has evidence at that level.

    Args:
        run: the run with its rows.
        categories: what the reported categories are called.
    """
    order = (REFERENCE, CONTROL)
    backends = sorted(
        run.manifest.backends, key=lambda name: order.index(name) if name in order else len(order)
    )
    methods: dict[Level, list[str]] = {
        "turn": [CHANCE, *backends],
        "session": [CHANCE, SESSION_BM25, *backends],
    }
    return Summary(
        run.manifest,
        [_result(run, method, level, categories) for level in LEVELS for method in methods[level]],
        [
            difference
            for level in LEVELS
            for against, backend in combinations(methods[level][1:], 2)
            if (difference := _difference(run, backend, against, level))
        ],
    )


def _result(run: Run, method: str, level: Level, categories: str) -> Result:
    scored = _scored(run, method, level)
    ranks = [scores.reciprocal_rank for _, scores in scored if scores.reciprocal_rank is not None]
    with_cost = level == "turn" and method not in BASELINES
    return Result(
        method,
        level,
        categories,
        _recall([scores for _, scores in scored]),
        _mean(ranks),
        _by_category(scored),
        _cost(run, method) if with_cost else None,
        _abstention(run.of(JudgeRow, method)) if with_cost else None,
        _answers(run.of(JudgeRow, method)) if with_cost else None,
    )


def _scored(run: Run, method: str, level: Level) -> list[tuple[RankRow, Scores]]:
    """Return the rankings that count, with their scores at this level."""
    rows = [row for row in run.of(RankRow, method) if row.answerable]
    return [
        (row, scores) for row in rows if (scores := row.turn if level == "turn" else row.session) is not None
    ]


def _recall(scores: Sequence[Scores]) -> Recall:
    return Recall(len(scores), {k: _mean(each.recall[k] for each in scores) for k in KS})


def _by_category(scored: Sequence[tuple[RankRow, Scores]]) -> dict[str, Recall]:
    groups: dict[str, list[Scores]] = {}
    for row, scores in scored:
        groups.setdefault(row.category, []).append(scores)
    return {category: _recall(group) for category, group in sorted(groups.items())}


def _cost(run: Run, method: str) -> Cost:
    """Return the cost of a method from its rows; a figure is None where nothing was measured."""
    ranks, writes, sizes = run.of(RankRow, method), run.of(WriteRow, method), run.of(SizeRow, method)
    turns_remembered = sum(row.turns for row in writes)
    turns_stored = sum(row.turns for row in sizes)
    milliseconds = [1000 * row.seconds for row in ranks if row.seconds is not None]
    return Cost(
        write_ms_per_turn=1000 * sum(row.seconds for row in writes) / turns_remembered
        if turns_remembered
        else None,
        recall_ms_median=statistics.median(milliseconds) if milliseconds else None,
        recall_ms_p95=statistics.quantiles(milliseconds, n=20, method="inclusive")[-1]
        if len(milliseconds) > 1
        else None,
        bytes_per_turn=sum(row.bytes for row in sizes) / turns_stored if turns_stored else None,
        model_calls_per_turn=sum(row.calls for row in writes) / turns_remembered
        if turns_remembered
        else None,
        model_calls_per_recall=_mean(row.calls for row in ranks if row.calls is not None),
    )


def _abstention(rows: Sequence[JudgeRow]) -> Abstention | None:
    if not rows:
        return None
    unanswerable = sum(not row.answerable for row in rows)
    abstained = [row for row in rows if row.abstained]
    right = sum(not row.answerable for row in abstained)
    return Abstention(
        unanswerable=unanswerable,
        abstained=len(abstained),
        precision=right / len(abstained) if abstained else None,
        recall=right / unanswerable if unanswerable else None,
        base_rate=unanswerable / len(rows),
    )


def _answers(rows: Sequence[JudgeRow]) -> Answers | None:
    f1s = [row.f1 for row in rows if row.f1 is not None]
    return Answers(len(f1s), _mean(f1s)) if f1s else None


def _difference(run: Run, backend: str, against: str, level: Level) -> Difference | None:
    """Return the bootstrapped difference of the headline figure; None if no ranking of the backend counts."""
    ours = _headlines(run, backend, level)
    theirs = _headlines(run, against, level)
    if not ours:
        return None
    mean, low, high = bootstrap_difference(list(ours.values()), [theirs[question] for question in ours])
    return Difference(level, HEADLINE, backend, against, mean, low, high)


def _headlines(run: Run, method: str, level: Level) -> dict[tuple[str, str], float]:
    """Return the headline figure of each ranking that counts, by case and question."""
    return {(row.case, row.item): scores.recall[HEADLINE_K] for row, scores in _scored(run, method, level)}


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return statistics.fmean(listed) if listed else None
