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
from memagent.backends.shared.words import shared_words

if TYPE_CHECKING:
    from langgraph.store.base import ListNamespacesOp

_GROWTH = 4
"""If a recall leaves too few items, memory is asked again for this many times as many."""
_CANDIDATES = "1000"
"""What rag takes from each of its two searches: of many namespaces, one may hold few of the best. Its setting's largest value."""
_MAX_ORDERED = 1000
"""Most items that are put into an order by their words, after those that memory ranks."""


def ranked(
    memory: Memory, query: str, entries: Sequence[IndexEntry], wanted: int, *, abstain: bool
) -> dict[int, float | None]:
    """Return seqs of items, the most relevant first, with the score of those that memory ranks.

    Chat turns of the same user are left out. Cost: one recall, and further ones for four times as many hits each while too
    few are items of the search.

    Args:
        memory: of the user.
        query: what is searched.
        entries: the items that are searched.
        wanted: how many are needed; at least so many are returned, if there are.
        abstain: leave out items that memory does not rank; False: they follow, by the share of the query's words that
            they have, with the score None.
    """
    seqs = {entry.seq for entry in entries}
    scores: dict[int, float | None] = {}
    # As many hits as hold enough items, if the best were spread evenly over items and other turns.
    limit = max(wanted, 1) * max(memory.journal.count(), 1) // max(len(seqs), 1) + 1
    while seqs:
        recollections = memory.recall(query, limit=limit)
        for recollection in recollections:
            for seq in recollection.seqs:
                if seq in seqs:
                    scores.setdefault(seq, recollection.score)
        if len(scores) >= min(wanted, len(seqs)) or len(recollections) < limit:
            break
        limit *= _GROWTH
    if not abstain and len(scores) < wanted:
        unranked = [entry.seq for entry in entries if entry.seq not in scores]
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
    """Return items by the share of the query's words in their text; of equal ones, the last stored first."""
    shares = {turn.seq: shared_words(query, turn.text) for turn in journal.get(seqs[:_MAX_ORDERED])}
    return sorted(seqs, key=lambda seq: (-shares.get(seq, 0.0), -seq))
