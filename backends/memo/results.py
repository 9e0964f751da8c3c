"""Conversions of the MeMo memory: a turn to its stored text, and a regenerated text to a turn, a search hit or a hit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from memagent.backends.memo.ranking import Text
from memagent.backends.memo.sequences import SequenceMatrices
from memagent.backends.picture import Cell, Column, Table
from memagent.backends.records import Hit, Turn
from memagent.backends.shared.judging import SearchHit, author_of
from memagent.backends.shared.words import shared_words

_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)
"""The state holds ids and no times; the order of seqs is the order of times."""


def stored_text(turn: Turn, text: str) -> str:
    """Return a text as it is stored: after a line that says who said it, so that the state needs no other record of it."""
    speaker = " ".join((turn.speaker or "").splitlines())
    return f"{turn.role} {speaker}\n{text}"


def parts_of(stored: str) -> tuple[str, str, str]:
    """Return role, speaker (empty: none) and text of ``stored_text``."""
    author, _, text = stored.partition("\n")
    role, _, speaker = author.partition(" ")
    return role, speaker, text


def turn_of(text: Text) -> Turn:
    """Return what a regenerated text tells of its turn; session and time are unknown."""
    segment, speaker = text.segment, text.speaker or None
    return Turn(segment.seq, segment.turn_id, "", text.role, text.text, _UNKNOWN_TIME, speaker)


def search_hits_of(query: str, texts: Sequence[Text]) -> list[SearchHit]:
    """Return regenerated texts as search hits for the relevance model. Their order is the seq alone: the time is unknown."""
    return [
        SearchHit(
            text=text.text,
            order=(_UNKNOWN_TIME, text.segment.seq),
            author=author_of(turn_of(text)),
            score=0.0,
            coverage=shared_words(query, text.text),
        )
        for text in texts
    ]


def hit_of(text: Text, chance: float, sequences: SequenceMatrices) -> Hit:
    """Return a regenerated text as a hit.

    Args:
        text: the text.
        chance: its probability of relevance, 0 to 1.
        sequences: the matrices that it was regenerated from.
    """
    matrices = sorted({address.matrix for address in text.segment.addresses})
    origin = " and ".join(f"{matrix} ({sequences.load_of(matrix):.0%} full)" for matrix in matrices)
    return Hit(
        (text.segment.seq,),
        chance,
        text=text.text,
        regenerated=True,
        why=(
            f"The index found its code, from which the sequence matrix of {origin} regenerated it: each token is right with "
            f"{text.confidence:.2%} or more. Its cosine to the message is {text.cosine:.2f}; it bears on it with {chance:.0%}."
        ),
    )


def table_of(name: str, sequences: SequenceMatrices) -> Table:
    """Return the sequence matrices with their load."""
    rows: list[tuple[Cell, ...]] = [
        (
            matrix,
            len(sequences.matrices[matrix]),
            sequences.pairs[matrix],
            round(sequences.load_of(matrix), 3),
            round(sequences.accuracy_of(matrix), 6),
        )
        for matrix in sorted(sequences.matrices)
    ]
    columns = ("matrix", "dimension", "tokens", "load", "predicted accuracy")
    return Table(f"{name}: sequence matrices", tuple(map(Column, columns)), tuple(rows))
