"""Add provenance from the journal to the hits of a backend."""

from __future__ import annotations

from collections.abc import Sequence

from memagent.agent.journal import JournalReader
from memagent.backends.records import Hit, Recollection


def with_provenance(journal: JournalReader, hits: Sequence[Hit]) -> list[Recollection]:
    """Return hits as recollections, in the same order, with text, session, role, speaker and times from the journal.

    Cost: one query for all hits together.

    Args:
        journal: the journal that the hits come from.
        hits: in any order.

    Returns:
        One recollection for each hit whose first turn the journal still has. ``superseded_by`` and ``superseded_at`` are
        None if the journal does not have the later turn any more.
    """
    seqs = {hit.seqs[0] for hit in hits} | {
        hit.superseded_by for hit in hits if hit.superseded_by is not None
    }
    turns = {turn.seq: turn for turn in journal.get(seqs)}
    recollections = []
    for hit in hits:
        source = turns.get(hit.seqs[0])
        successor = turns.get(hit.superseded_by or 0)
        if source is not None:
            recollections.append(
                Recollection(
                    text=hit.text or source.text,
                    score=hit.score,
                    seqs=hit.seqs,
                    session=source.session,
                    role=source.role,
                    created_at=source.created_at,
                    why=hit.why,
                    speaker=source.speaker,
                    regenerated=hit.regenerated,
                    superseded_by=successor.seq if successor is not None else None,
                    superseded_at=successor.created_at if successor is not None else None,
                )
            )
    return recollections
