"""The searches of a LangGraph store: items in the order in which a memory ranks them, and lists of namespaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING

from memagent.agent.integrations.langchain.store_values import matches_namespace
from memagent.agent.journal import JournalReader
from memagent.agent.journal.item_index import IndexEntry, read_namespaces
from memagent.agent.memory import Memory
from memagent.backends import registry
from memagent.backends.shared.words import content_words, query_words

if TYPE_CHECKING:
    from langgraph.store.base import ListNamespacesOp

_CANDIDATES = "1000"
"""What rag takes from each of its two searches, its setting's largest value: all items of a namespace of so many."""


def ranked(
    memory: Memory, query: str, entries: Sequence[IndexEntry], wanted: int, *, abstain: bool
) -> dict[int, float | None]:
    """Return seqs of items, the most relevant first, with the score of those that memory ranks.

    Memory searches these items alone: neither other namespaces nor what the user said push them aside. Cost: one recall, and
    reading the texts of all items that memory does not rank if it ranks too few.

    Args:
        memory: of the user.
        query: what is searched.
        entries: the items that are searched.
        wanted: how many are needed.
        abstain: leave out items that memory does not rank; False: they follow, by the share of the query's words that
            they have, with the score None.

    Returns:
        At least ``wanted`` items if there are so many; with ``abstain``, at least so many if memory ranks so many.
    """
    seqs = [entry.seq for entry in entries]
    scores: dict[int, float | None] = {}
    if seqs and wanted > 0:
        for recollection in memory.recall(query, limit=wanted, among=seqs):
            for seq in recollection.seqs:
                scores.setdefault(seq, recollection.score)
    if not abstain and len(scores) < wanted:
        unranked = [seq for seq in seqs if seq not in scores]
        scores |= dict.fromkeys(_by_words(memory.journal, query, unranked))
    return scores


def namespaces(journal: JournalReader, op: ListNamespacesOp, now: datetime) -> list[tuple[str, ...]]:
    """Return the namespaces that fulfil all conditions, cut at the greatest depth, sorted.

    Args:
        journal: of the user.
        op: what is asked for.
        now: the time; items that have expired by then do not count.
    """
    chosen = {
        namespace if op.max_depth is None else namespace[: op.max_depth]
        for namespace in read_namespaces(journal, now)
        if all(matches_namespace(namespace, condition) for condition in op.match_conditions or ())
    }
    return sorted(chosen)[op.offset : op.offset + op.limit]


def ranking_settings(backend: str) -> dict[str, str]:
    """Return the settings with which a memory ranks instead of abstaining, and takes many candidates.

    Args:
        backend: one name, or several joined by ``+``.

    Raises:
        NotFoundError: there is no such backend.
    """
    names = backend.split(registry.SEPARATOR)
    settings = {}
    for name in names:
        prefix = f"{name}." if len(names) > 1 else ""
        known = {field.name for field in fields(registry.get(name).Config)}
        if "abstain" in known:
            settings[f"{prefix}abstain"] = "false"
        if name == "rag":
            settings[f"{prefix}candidates"] = _CANDIDATES
    return settings


def _by_words(journal: JournalReader, query: str, seqs: Sequence[int]) -> list[int]:
    """Return items by how many of the query's words their text has; of equal ones, the last stored first."""
    words = set(content_words(query))
    shared = {turn.seq: len(words.intersection(query_words(turn.text))) for turn in journal.get(seqs)}
    return sorted(seqs, key=lambda seq: (-shared.get(seq, 0), -seq))
