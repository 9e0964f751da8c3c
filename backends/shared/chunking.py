"""Cutting turns into passages, and passages into the clauses that are embedded beside them.

One vector blurs what a long sentence says in passing: "I grew up in Oamaru, so the smell of the sea
makes me homesick" has cosine 0.28 to "Where did I spend my childhood?", its first clause alone 0.40.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memagent.backends.records import Turn

# 256 word pieces, the embedder's limit, are about 1,000 characters of English.
LONGEST = 800
_LOOK_BACK = 200
_SHORTEST_CLAUSE = 3
_CLAUSE_END = re.compile(
    r"(?<=[.!?;:])\s+|\s+[-\u2013\u2014]\s+|\n+"
    r"|\s+(?:and|but|because|so)\s+(?=(?:i|we|he|she|they|it|my|our|the)\b)"
    r"|,\s+(?:and\s+|but\s+)?(?=(?:so|and|but|because|which|who|where|when|though|although|i|we|he|she|they|it|that|my|our|the)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a turn: all of it, if it is short.

    Attributes:
        turn: where it is from.
        part: its place in the turn, from 0.
        text: at most ``LONGEST`` characters.
    """

    turn: Turn
    part: int
    text: str

    @property
    def key(self) -> str:
        return f"{self.turn.seq}:{self.part}"

    def views(self) -> dict[str, str]:
        """Return the texts to embed by key: the whole passage, and its clauses if there are several.

        A transcript's speaker is named in each; "user" and "assistant" are not, they only blur.
        """
        name = f"{self.turn.speaker}: " if self.turn.speaker else ""
        clauses = [
            clause for clause in _CLAUSE_END.split(self.text) if len(clause.split()) >= _SHORTEST_CLAUSE
        ]
        views = {self.key: name + self.text}
        if len(clauses) > 1 or (clauses and len(clauses[0]) < len(self.text) - 10):
            views |= {f"{self.key}/{number}": name + clause for number, clause in enumerate(clauses)}
        return views


def passage_key(view: str) -> str:
    """The key of the passage that a view belongs to."""
    return view.partition("/")[0]


def split(turn: Turn) -> list[Passage]:
    """Cut a turn at ends of sentences where there are any near, else between words, else anywhere."""
    pieces: list[str] = []
    rest = turn.text.strip()
    while len(rest) > LONGEST:
        cut = _cut(rest)
        pieces.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    pieces.append(rest)
    return [Passage(turn, part, piece) for part, piece in enumerate(piece for piece in pieces if piece)]


def _cut(text: str) -> int:
    for ending in ("\n", ". ", "! ", "? ", "。", "; ", ", ", " "):
        at = text.rfind(ending, LONGEST - _LOOK_BACK, LONGEST)
        if at >= 0:
            return at + len(ending)
    return LONGEST
