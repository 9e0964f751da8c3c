"""Which turns and pieces the map holds, and which pieces are neighbours."""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from memagent.backends.errors import CheckpointError
from memagent.backends.records import Turn
from memagent.backends.shared.attention.chunks import Piece, Writer


class Catalogue:
    """The pieces by number. Numbers grow with time and are never used twice."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._pieces: dict[int, Piece] = {}
        self._turns: dict[int, list[int]] = {}
        self._sessions: dict[str, list[int]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, number: int) -> Piece:
        return self._pieces[number]

    @property
    def turns(self) -> int:
        return len(self._turns)

    def add(self, turns: Iterable[Turn]) -> list[int]:
        """Cut turns that are not here into pieces and return the new numbers."""
        new = []
        for turn in turns:
            if turn.seq not in self._turns:
                new += self._place(turn, self._next)
        return new

    def remove(self, seqs: Collection[int]) -> list[tuple[int, int]]:
        """Remove turns and return their pieces as (number, tokens)."""
        gone = []
        for seq in set(seqs) & self._turns.keys():
            for number in self._turns.pop(seq):
                piece = self._pieces.pop(number)
                session = self._sessions[piece.turn.session]
                del session[bisect_left(session, number)]
                gone.append((number, len(piece.ids)))
        return gone

    def numbers(self, seqs: Collection[int] | None = None) -> list[int]:
        """Return the pieces of turns, of all by default, in order."""
        wanted = self._turns if seqs is None else seqs
        return sorted(number for seq in wanted for number in self._turns.get(seq, ()))

    def around(self, number: int, shift: int) -> int | None:
        """Return the piece ``shift`` places after a piece in its dialogue; None if there is none.

        A dialogue goes on as long as each turn is by another speaker than the one before it. The pieces of one turn are
        no dialogue either: a long turn would credit itself and drown short ones.
        """
        session = self._sessions[self._pieces[number].turn.session]
        place = bisect_left(session, number)
        if not 0 <= place + shift < len(session):
            return None
        step = 1 if shift > 0 else -1
        path = [self._pieces[session[one]].turn for one in range(place, place + shift + step, step)]
        linked = all(_speaker(one) != _speaker(other) for one, other in pairwise(path))
        return session[place + shift] if linked else None

    def before(self, number: int, count: int) -> list[Piece]:
        """Return the ``count`` pieces before a piece in its session, oldest first."""
        session = self._sessions[self._pieces[number].turn.session]
        place = bisect_left(session, number)
        return [self._pieces[one] for one in session[max(0, place - count) : place]]

    def after(self, number: int, count: int) -> list[int]:
        """Return the numbers of the ``count`` pieces after a piece in its session."""
        session = self._sessions[self._pieces[number].turn.session]
        place = bisect_left(session, number)
        return session[place + 1 : place + 1 + count]

    def save(self, file: Path) -> None:
        """Write the turns, one a line, each with the number of its first piece."""
        with file.open("w", encoding="utf-8") as lines:
            for seq in sorted(self._turns):
                numbers = self._turns[seq]
                turn = self._pieces[numbers[0]].turn
                row = asdict(turn) | {"created_at": turn.created_at.isoformat(), "first": numbers[0]}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")

    def load(self, file: Path) -> None:
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: it cannot be read.
        """
        try:
            for turn, first in _rows(file):
                self._place(turn, first)
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"its list of turns cannot be read ({error})") from error

    def _place(self, turn: Turn, first: int) -> list[int]:
        pieces = dict(enumerate(self._writer.cut(turn), start=first))
        self._pieces |= pieces
        self._turns[turn.seq] = list(pieces)
        for number in pieces:
            insort(self._sessions.setdefault(turn.session, []), number)
        self._next = max(self._next, first + len(pieces))
        return list(pieces)


def _speaker(turn: Turn) -> str:
    return turn.speaker or turn.role


def _rows(file: Path) -> Iterator[tuple[Turn, int]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            first = row.pop("first")
            row["created_at"] = datetime.fromisoformat(row["created_at"])
            row["in_view"] = tuple(row["in_view"])
            yield Turn(**row), first
