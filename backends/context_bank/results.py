"""What the context bank makes of ranked turns and of its state, in the contract's types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from memagent.backends.context_bank.bank import ContextBank
from memagent.backends.context_bank.clusters import Clusters
from memagent.backends.picture import Cell, Column, Picture, Table
from memagent.backends.records import Hit, Turn
from memagent.backends.shared.judging import SearchHit, author_of

_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)
"""The bank holds seqs and no times; the order of seqs is the order of times."""
_ROLES = ("User", "Assistant", "System", "Tool")


@dataclass(frozen=True, slots=True)
class RankedTurn:
    """A turn that was found.

    Attributes:
        seq: of the turn.
        score: of the search, in nats; only differences between scores mean something.
        cosine: of its key and the question's, centred.
        coverage: idf-weighted share of the question's content words that its latents hold, 0 to 1.
        author: who said it, or the role; empty if that was merged.
        text: its words, of a long turn an excerpt, decoded from its latents; empty if too many of them were merged.
        vectors: number of its latent vectors.
        shared: number of those in which other turns are merged, too.
    """

    seq: int
    score: float
    cosine: float
    coverage: float
    author: str
    text: str
    vectors: int
    shared: int


def turn_of(turn: RankedTurn) -> Turn:
    """Return what the latents tell of a turn; id, session and time are unknown."""
    role = turn.author.lower() if turn.author in _ROLES else "user"
    speaker = None if turn.author in ("", *_ROLES) else turn.author
    return Turn(turn.seq, "", "", role, turn.text, _UNKNOWN_TIME, speaker)


def search_hits_of(turns: Sequence[RankedTurn]) -> list[SearchHit]:
    """Return turns as search hits for the relevance model. Their order is the seq alone: the time is unknown."""
    return [
        SearchHit(
            text=turn.text,
            order=(_UNKNOWN_TIME, turn.seq),
            author=author_of(turn_of(turn)),
            score=turn.score,
            coverage=turn.coverage,
            cosine=turn.cosine,
        )
        for turn in turns
    ]


def hit_of(turn: RankedTurn, chance: float) -> Hit:
    """Return a turn as a hit. Its text is the journal's.

    Args:
        turn: the turn.
        chance: its probability of relevance, 0 to 1.
    """
    vectors = "latent vector points" if turn.vectors == 1 else f"{turn.vectors} latent vectors point"
    verb = "holds" if turn.vectors == 1 else "hold"
    merged = f"; {turn.shared} of {turn.vectors} merged with other turns" if turn.shared else ""
    return Hit(
        (turn.seq,),
        chance,
        why=(
            f"Its {vectors} where the question's do (cosine {turn.cosine:.2f}) and {verb} {turn.coverage:.0%} of its words{merged}. "
            f"It bears on the message with {chance:.0%}."
        ),
    )


def summary_of(bank: ContextBank) -> str:
    """Return one sentence about what was merged."""
    originals = sum(bank.turns.values())
    if not bank.removals:
        return f"Nothing is merged yet: {len(bank)} of at most {bank.capacity} vectors are in use."
    verb = "merged" if bank.rule.merges else "evicted"
    return f"{bank.removals} of {originals} vectors were {verb} as the bank reached its capacity of {bank.capacity}."


def removals_table(name: str, bank: ContextBank) -> Table:
    """Return what was merged with what, or evicted, and why; the latest of each block."""
    rows: list[tuple[Cell, ...]] = [
        (
            removal.block,
            removal.turn,
            removal.quota,
            ", ".join(map(str, removal.removed)),
            ", ".join(map(str, removal.kept)),
            round(removal.cosine, 3),
            round(removal.removed_importance, 3),
            round(removal.kept_importance, 3),
        )
        for removal in bank.log()
    ]
    labels = (
        "block",
        "as turn came",
        "quota",
        "vector of turns",
        "merged into that of",
        "cosine",
        "importance",
        "importance of the other",
    )
    return Table(f"{name}: what was merged", tuple(map(Column, labels)), tuple(rows))


def bank_pictures(name: str, bank: ContextBank, clusters: Clusters) -> list[Picture]:
    """Return tables of the clusters and of what was merged."""
    labels = clusters.labels if len(clusters) else np.zeros(len(bank), np.int32)
    rows: list[tuple[Cell, ...]] = []
    for label in np.unique(labels).tolist():
        members = labels == label
        rows.append(
            (
                label,
                int(members.sum()),
                int(bank.counts[members].sum()),
                round(float(bank.frequency[members].sum()), 2),
                round(float(bank.average_attention[members].mean()), 4),
                int(bank.recency[members].max()),
            )
        )
    columns = ("cluster", "vectors", "original vectors", "uses", "average attention", "latest seq")
    return [
        Table(f"{name}: clusters", tuple(map(Column, columns)), tuple(rows)),
        removals_table(name, bank),
    ]
