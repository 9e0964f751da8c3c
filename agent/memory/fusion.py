"""Combine the hits, figures and reports of several backends that are opened as one memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from memagent.backends.records import BackendStats, ConsolidationReport, Hit
from memagent.backends.shared.fusion import reciprocal_rank_fusion

# The constant of rag's rank fusion, chosen on LoCoMo's development half: the top ranks count much more than the rest.
_RANK_CONSTANT = 10.0
WEIGHTS = Path(__file__).with_name("fusion.json")
"""How much each backend counts; ``benchmarks/fit_fusion.py`` fits them. Another backend counts as much as rag."""


@cache
def fitted_weights() -> Mapping[str, float]:
    """Return the weights of ``fusion.json`` by the backend's name."""
    weights: dict[str, float] = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    return weights


def fuse_hits(
    rankings: Mapping[str, Sequence[Hit]], limit: int, weights: Mapping[str, float] | None = None
) -> list[Hit]:
    """Fuse the hits of several backends by reciprocal rank. Hits of the same turns become one hit.

    Args:
        rankings: hits by the backend's name, best first. The hits of a single backend are returned unchanged.
        limit: most hits returned.
        weights: by the backend's name, 1 for those left out; None: the fitted ones.

    Returns:
        At most ``limit`` hits, best first. Their score is the fused score, 0 to 1; 1.0 means first in every backend.
    """
    if len(rankings) == 1:
        return list(next(iter(rankings.values())))
    weights = fitted_weights() if weights is None else weights
    scores = reciprocal_rank_fusion(
        [[hit.seqs for hit in hits] for hits in rankings.values()],
        _RANK_CONSTANT,
        [weights.get(name, 1.0) for name in rankings],
    )
    fused = []
    for seqs, score in list(scores.items())[:limit]:
        same_turns = {name: hit for name, hits in rankings.items() for hit in hits if hit.seqs == seqs}
        why = " ".join(f"{name}: {hit.why}" for name, hit in same_turns.items())
        superseded_by = next(
            (hit.superseded_by for hit in same_turns.values() if hit.superseded_by is not None), None
        )
        first = next(iter(same_turns.values()))
        fused.append(replace(first, score=score, why=why, superseded_by=superseded_by))
    return fused


def add_stats(stats: Mapping[str, BackendStats]) -> BackendStats:
    """Add up the figures of several backends.

    Args:
        stats: figures by the backend's name.

    Returns:
        The sums. The keys of ``extras`` begin with the backend's name if there are several backends.
    """
    if len(stats) == 1:
        return next(iter(stats.values()))
    extras = {
        f"{name}: {key}": value for name, figures in stats.items() for key, value in figures.extras.items()
    }
    return BackendStats(
        items=sum(figures.items for figures in stats.values()),
        tokens=sum(figures.tokens for figures in stats.values()),
        bytes_on_disk=sum(figures.bytes_on_disk for figures in stats.values()),
        bytes_in_memory=sum(figures.bytes_in_memory for figures in stats.values()),
        extras=extras,
    )


def add_reports(reports: Mapping[str, ConsolidationReport]) -> ConsolidationReport:
    """Add up the consolidation reports of several backends.

    Args:
        reports: reports by the backend's name.
    """
    if len(reports) == 1:
        return next(iter(reports.values()))
    summary = " ".join(f"{name}: {report.summary}" for name, report in reports.items())
    return ConsolidationReport(
        before=sum(report.before for report in reports.values()),
        after=sum(report.after for report in reports.values()),
        summary=summary,
        pictures=tuple(picture for report in reports.values() for picture in report.pictures),
    )
