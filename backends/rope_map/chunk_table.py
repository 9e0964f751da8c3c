"""Which turns and chunks the map holds, and which chunks are neighbours."""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from memagent.backends.errors import CheckpointError
from memagent.backends.records import Turn
from memagent.backends.shared.attention.chunks import Chunk, TurnTokenizer
from memagent.backends.shared.turns import turn_fields, turn_from_fields


class ChunkTable:
    """The stored chunks by number. Numbers grow with time and are never used twice.

    Args:
        tokenizer: splits turns into chunks.
    """

    def __init__(self, tokenizer: TurnTokenizer) -> None:
        self._tokenizer = tokenizer
        self._chunks: dict[int, Chunk] = {}
        self._turns: dict[int, list[int]] = {}
        self._sessions: dict[str, list[int]] = {}
        self._next_number = 0

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, number: int) -> Chunk:
        return self._chunks[number]

    @property
    def num_turns(self) -> int:
        """How many turns are stored."""
        return len(self._turns)

    def add(self, turns: Iterable[Turn]) -> list[int]:
        """Split turns into chunks and return the new numbers. Turns that are stored already are skipped."""
        numbers = []
        for turn in turns:
            if turn.seq not in self._turns:
                numbers += self._insert(turn, self._next_number)
        return numbers

    def remove(self, seqs: Collection[int]) -> list[tuple[int, int]]:
        """Remove turns by seq; unknown ones are ignored.

        Returns:
            (number, tokens) of each removed chunk.
        """
        removed = []
        for seq in set(seqs) & self._turns.keys():
            for number in self._turns.pop(seq):
                chunk = self._chunks.pop(number)
                session = self._sessions[chunk.turn.session]
                del session[bisect_left(session, number)]
                removed.append((number, len(chunk.ids)))
        return removed

    def numbers(self, seqs: Collection[int] | None = None) -> list[int]:
        """Return the numbers of the chunks of some turns, ascending; None: of all turns."""
        turn_seqs = self._turns if seqs is None else seqs
        return sorted(number for seq in turn_seqs for number in self._turns.get(seq, ()))

    def neighbour(self, number: int, shift: int) -> int | None:
        """Return the number of the chunk ``shift`` places after a chunk in its dialogue, or None.

        In a dialogue each turn is by another speaker than the turn before it. The chunks of one turn are no dialogue
        either: a long turn would credit itself, and short ones would rank below it.
        """
        session, place = self._place(number)
        if not 0 <= place + shift < len(session):
            return None
        step = 1 if shift > 0 else -1
        turns = [self._chunks[session[at]].turn for at in range(place, place + shift + step, step)]
        alternates = all(_speaker(turn) != _speaker(following) for turn, following in pairwise(turns))
        return session[place + shift] if alternates else None

    def preceding(self, number: int, count: int) -> list[Chunk]:
        """Return the ``count`` chunks before a chunk in its session, oldest first."""
        session, place = self._place(number)
        return [self._chunks[other] for other in session[max(0, place - count) : place]]

    def following(self, number: int, count: int) -> list[int]:
        """Return the numbers of the ``count`` chunks after a chunk in its session."""
        session, place = self._place(number)
        return session[place + 1 : place + 1 + count]

    def save(self, file: Path) -> None:
        """Write one line of JSON per turn, with the number of its first chunk."""
        with file.open("w", encoding="utf-8") as lines:
            for seq in sorted(self._turns):
                numbers = self._turns[seq]
                turn = self._chunks[numbers[0]].turn
                row = turn_fields(turn) | {"first": numbers[0]}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")

    def load(self, file: Path) -> None:
        """Add the turns that ``save`` wrote.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            for turn, first_number in _saved_turns(file):
                self._insert(turn, first_number)
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"its list of turns cannot be read ({error})") from error

    def _insert(self, turn: Turn, first_number: int) -> list[int]:
        """Split a turn, number its chunks from ``first_number`` on, and return the numbers."""
        chunks = dict(enumerate(self._tokenizer.split(turn), start=first_number))
        self._chunks |= chunks
        self._turns[turn.seq] = list(chunks)
        for number in chunks:
            insort(self._sessions.setdefault(turn.session, []), number)
        self._next_number = max(self._next_number, first_number + len(chunks))
        return list(chunks)

    def _place(self, number: int) -> tuple[list[int], int]:
        """Return the chunk numbers of a chunk's session, ascending, and the chunk's place among them."""
        session = self._sessions[self._chunks[number].turn.session]
        return session, bisect_left(session, number)


def _speaker(turn: Turn) -> str:
    return turn.speaker or turn.role


def _saved_turns(file: Path) -> Iterator[tuple[Turn, int]]:
    """Yield the turns of a file that ``save`` wrote, each with the number of its first chunk."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            first_number = row.pop("first")
            yield turn_from_fields(row), first_number
