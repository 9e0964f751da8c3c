"""What several memories that are opened as one say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from memagent.backends.records import BackendStats, ConsolidationReport, Hit
from memagent.backends.shared.fusion import reciprocal_rank_fusion

# As rag's, where it was chosen on LoCoMo's development half: the top ranks count much more than the rest.
_RANK_CONSTANT = 10.0


def fuse_hits(rankings: Mapping[str, Sequence[Hit]], limit: int) -> list[Hit]:
    """Fuse each backend's hits by reciprocal rank; hits of the same turns are one.

    Returns:
        At most ``limit`` hits, best first. Their score is the fused one, 0 to 1: 1.0 means first in every memory.
    """
    if len(rankings) == 1:
        return list(next(iter(rankings.values())))
    scores = reciprocal_rank_fusion(
        [[hit.seqs for hit in hits] for hits in rankings.values()], _RANK_CONSTANT
    )
    fused = []
    for seqs, score in list(scores.items())[:limit]:
        found = {name: hit for name, hits in rankings.items() for hit in hits if hit.seqs == seqs}
        why = " ".join(f"{name}: {hit.why}" for name, hit in found.items())
        superseded_by = next(
            (hit.superseded_by for hit in found.values() if hit.superseded_by is not None), None
        )
        first = next(iter(found.values()))
        fused.append(replace(first, score=score, why=why, superseded_by=superseded_by))
    return fused


def add_stats(stats: Mapping[str, BackendStats]) -> BackendStats:
    """Add up what memories hold; further figures get the backend's name in front."""
    if len(stats) == 1:
        return next(iter(stats.values()))
    every = list(stats.values())
    return BackendStats(
        items=sum(one.items for one in every),
        tokens=sum(one.tokens for one in every),
        bytes_on_disk=sum(one.bytes_on_disk for one in every),
        bytes_in_memory=sum(one.bytes_in_memory for one in every),
        extras={f"{name}: {key}": value for name, one in stats.items() for key, value in one.extras.items()},
    )


def add_reports(reports: Mapping[str, ConsolidationReport]) -> ConsolidationReport:
    """Add up what consolidations did."""
    if len(reports) == 1:
        return next(iter(reports.values()))
    summary = " ".join(f"{name}: {report.summary}" for name, report in reports.items())
    before, after = (
        sum(getattr(report, field) for report in reports.values()) for field in ("before", "after")
    )
    return ConsolidationReport(before, after, summary)
