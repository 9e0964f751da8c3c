"""From a run's rows to results: means, percentiles, and how sure each difference is."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from memagent.agent.evaluation.benchmarks.measure import BM25, CHANCE
from memagent.agent.evaluation.benchmarks.metrics import KS, bootstrap_difference
from memagent.agent.evaluation.benchmarks.run import Row, Run
from memagent.backends.registry import CONTROL

LEVELS = ("turn", "session")
METRICS = tuple(f"recall@{k}" for k in KS)
HEADLINE = "recall@10"


def summarise(run: Run, main: str) -> dict[str, Any]:
    """Return a run's result.

    ``results`` holds a row for every method and level; ``differences`` a paired bootstrap of every two
    methods. A ranking counts where the question is answerable and has evidence at that level.

    Args:
        main: what the reported categories are called.
    """
    backends = sorted(run.manifest["backends"], key=lambda name: name != CONTROL)
    methods = [CHANCE, BM25, *backends]
    ranks = {method: _of(run.rows, "rank", method) for method in methods}
    return {
        "manifest": run.manifest,
        "results": [
            _result(run.rows, method, level, main, ranks[method]) for level in LEVELS for method in methods
        ],
        "differences": [
            _difference(ranks[ours], ranks[theirs], ours, theirs, level)
            for level in LEVELS
            for theirs, ours in combinations(methods[1:], 2)
            if _scored(ranks[ours], level)
        ],
    }


def _result(rows: Sequence[Row], method: str, level: str, main: str, ranks: Sequence[Row]) -> dict[str, Any]:
    scored = _scored(ranks, level)
    result: dict[str, Any] = {
        "backend": method,
        "level": level,
        "categories": main,
        "questions": len(scored),
        **{metric: _mean(row[level][metric] for row in scored) for metric in METRICS},
        "mrr": None if method == CHANCE else _mean(row[level]["rr"] for row in scored),
        "by_category": _by_category(scored, level),
    }
    if level == "turn" and method not in (CHANCE, BM25):
        result["cost"] = _cost(rows, method, ranks)
        result["abstention"] = _abstention(_of(rows, "judge", method))
        answered = [row for row in _of(rows, "judge", method) if "f1" in row]
        if answered:
            result["answers"] = {
                "questions": len(answered),
                "token_f1": _mean(row["f1"] for row in answered),
            }
    return result


def _by_category(scored: Sequence[Row], level: str) -> dict[str, dict[str, Any]]:
    found: dict[str, list[Row]] = {}
    for row in scored:
        found.setdefault(row["category"], []).append(row)
    return {
        category: {
            "questions": len(rows),
            **{metric: _mean(row[level][metric] for row in rows) for metric in METRICS},
        }
        for category, rows in sorted(found.items())
    }


def _cost(rows: Sequence[Row], method: str, ranks: Sequence[Row]) -> dict[str, Any]:
    """Writing and recalling in milliseconds, storage in bytes, model calls; means but for the recall time."""
    writes, sizes = _of(rows, "write", method), _of(rows, "size", method)
    turns = sum(row["turns"] for row in writes)
    recalls = [1000 * row["seconds"] for row in ranks]
    stored = sum(row["turns"] for row in sizes)
    return {
        "write_ms_per_turn": 1000 * sum(row["seconds"] for row in writes) / turns if turns else None,
        "recall_ms_median": statistics.median(recalls) if recalls else None,
        "recall_ms_p95": statistics.quantiles(recalls, n=20, method="inclusive")[-1]
        if len(recalls) > 1
        else None,
        "bytes_per_turn": sum(row["bytes"] for row in sizes) / stored if stored else None,
        "model_calls_per_turn": sum(row["calls"] for row in writes) / turns if turns else None,
        "model_calls_per_recall": _mean(row["calls"] for row in ranks),
    }


def _abstention(judged: Sequence[Row]) -> dict[str, Any] | None:
    """How well an empty recall tells that nothing is relevant.

    precision: the share of abstentions that were right; recall: the share of unanswerable questions
    abstained on; base_rate: the share of unanswerable questions, the precision of always abstaining.
    """
    unanswerable = [row for row in judged if not row["answerable"]]
    abstained = [row for row in judged if row["abstained"]]
    right = sum(not row["answerable"] for row in abstained)
    if not judged:
        return None
    return {
        "unanswerable": len(unanswerable),
        "abstained": len(abstained),
        "precision": right / len(abstained) if abstained else None,
        "recall": right / len(unanswerable) if unanswerable else None,
        "base_rate": len(unanswerable) / len(judged),
    }


def _difference(
    ours: Sequence[Row], theirs: Sequence[Row], our_name: str, their_name: str, level: str
) -> dict[str, Any]:
    other = {(row["case"], row["item"]): row for row in _scored(theirs, level)}
    pairs = [
        (row[level][HEADLINE], other[row["case"], row["item"]][level][HEADLINE])
        for row in _scored(ours, level)
    ]
    mean, low, high = bootstrap_difference([one for one, _ in pairs], [one for _, one in pairs])
    return {
        "level": level,
        "metric": HEADLINE,
        "backend": our_name,
        "against": their_name,
        "difference": mean,
        "low": low,
        "high": high,
    }


def _of(rows: Sequence[Row], kind: str, method: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind and row["method"] == method]


def _scored(ranks: Sequence[Row], level: str) -> list[Row]:
    return [row for row in ranks if row["answerable"] and row[level]]


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return statistics.fmean(listed) if listed else None
