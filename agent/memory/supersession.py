"""Mark recollections that a newer one makes untrue. They stay: that somebody lived in Lisbon before is an answer, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from memagent.backends.records import Recollection
from memagent.backends.shared.supersession import superseded_by
from memagent.backends.shared.text import is_question

_MOST = 10
"""The best recollections, which are compared with each other; a prompt takes fewer. Each takes a millisecond or two."""


def mark_superseded(recollections: Sequence[Recollection], query: str) -> list[Recollection]:
    """Return recollections with ``superseded_by`` and ``superseded_at``; each stands behind what supersedes it.

    Statements of one speaker that answer the same query are about one subject, so the newer may supersede the older.
    Marks that a backend has made stay. Questions take no part.

    Args:
        recollections: best first.
        query: what they were recalled for.
    """
    compared = [
        item for item in recollections[:_MOST] if item.superseded_by is None and not is_question(item.text)
    ]
    successors: dict[tuple[int, ...], Recollection] = {}
    for _, group in groupby(sorted(compared, key=_author), key=_author):
        by_time = sorted(group, key=lambda item: (item.created_at, item.seqs))
        later_places = superseded_by([item.text for item in by_time], query)
        for item, later in zip(by_time, later_places, strict=True):
            if later is not None:
                successors[item.seqs] = by_time[later]
    marked = [_marked(item, successors.get(item.seqs)) for item in recollections]
    return _behind_successors(marked) if successors else marked


def _author(item: Recollection) -> tuple[str, str]:
    return item.role, item.speaker or ""


def _marked(item: Recollection, successor: Recollection | None) -> Recollection:
    if successor is None:
        return item
    return replace(item, superseded_by=successor.seqs[0], superseded_at=successor.created_at)


def _behind_successors(recollections: list[Recollection]) -> list[Recollection]:
    """Move each recollection that stands before what supersedes it to right behind it.

    The newest move first, so that of a chain of changes each stands behind the next.
    """
    ordered = list(recollections)
    for item in sorted(recollections, key=lambda item: (item.created_at, item.seqs), reverse=True):
        successor = next((other for other in ordered if item.superseded_by in other.seqs), None)
        if successor is not None and ordered.index(item) < ordered.index(successor):
            ordered.remove(item)
            ordered.insert(ordered.index(successor) + 1, item)
    return ordered
