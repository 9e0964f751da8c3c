"""Add provenance from the journal to the hits of a backend."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from memagent.agent.journal import JournalReader
from memagent.agent.journal.item_index import outdated_seqs
from memagent.backends.records import Hit, Recollection


def with_provenance(journal: JournalReader, hits: Sequence[Hit]) -> list[Recollection]:
    """Return hits as recollections, in the same order, with text, session, role, speaker and times from the journal.

    Cost: three queries for all hits together: outdated items, turns and attachments.

    Args:
        journal: the journal that the hits come from.
        hits: in any order.

    Returns:
        One recollection for each hit whose first turn the journal still has. ``superseded_by`` and ``superseded_at`` are
        None if the journal does not have the later turn any more. Outdated items count as turns that it does not have.
    """
    outdated = outdated_seqs(journal, {seq for hit in hits for seq in (*hit.seqs, hit.superseded_by or 0)})
    if outdated:
        hits = [current for hit in hits if (current := _without(hit, outdated)) is not None]
    seqs = {hit.seqs[0] for hit in hits} | {
        hit.superseded_by for hit in hits if hit.superseded_by is not None
    }
    turns = {turn.seq: turn for turn in journal.get(seqs - outdated)}
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


def _without(hit: Hit, outdated: Collection[int]) -> Hit | None:
    """Return a hit without outdated turns; None if no turn is left, or if its text may be made of theirs."""
    seqs = tuple(seq for seq in hit.seqs if seq not in outdated)
    if seqs == hit.seqs:
        return hit
    return replace(hit, seqs=seqs) if seqs and not hit.regenerated else None
