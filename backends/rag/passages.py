"""Cutting long turns into passages that one embedding can stand for."""

from __future__ import annotations

from dataclasses import dataclass

from memagent.backends.protocol import Turn

# 256 word pieces, the embedder's limit, are about 1,000 characters of English.
LONGEST = 800
_LOOK_BACK = 200


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
