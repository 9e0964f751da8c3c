"""Whose prompt prefixes a model keeps, and as of which forgetting of the journal."""

from __future__ import annotations

from memagent.agent.journal import Journal
from memagent.agent.models.prefix_cache import PrefixScope


def prefix_scope(journal: Journal) -> PrefixScope:
    """Return the scope of prompts that are made from a journal. Call it before the history is read from it.

    Args:
        journal: the user's journal.
    """
    return PrefixScope(journal.id, journal.user, journal.last()[1])
