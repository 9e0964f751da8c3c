"""Chunks: turns, long ones cut at sentence ends, as retrieval memories store them."""

from __future__ import annotations

from dataclasses import dataclass

from memagent.backends.records import Turn

MAX_CHUNK_CHARS = 800
"""Longest chunk in characters. The default embedder reads 256 tokens, about 1,000 characters of English."""
_SEARCHED_CHARS = 200
_ENDINGS = ("\n", ". ", "! ", "? ", "。", "; ", ", ", " ")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of a turn: all of it, if it is short.

    Attributes:
        turn: the turn that the text is from.
        part: place of the chunk in its turn, from 0.
        text: the words of the chunk, without surrounding white space.
    """

    turn: Turn
    part: int
    text: str

    @property
    def key(self) -> str:
        """The name of the chunk in an index: ``seq:part``."""
        return f"{self.turn.seq}:{self.part}"


def split_turn(turn: Turn) -> list[Chunk]:
    """Split a turn into chunks of at most ``MAX_CHUNK_CHARS`` characters.

    A cut is made at the best ending among the last 200 characters: a line, a sentence, a clause, a word; anywhere if
    there is none.

    Args:
        turn: the turn; a text of white space alone gives no chunks.

    Returns:
        The chunks in order. Together they hold every character of the text except white space at the cuts.
    """
    texts: list[str] = []
    rest = turn.text.strip()
    while len(rest) > MAX_CHUNK_CHARS:
        cut = _cut(rest)
        texts.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    texts.append(rest)
    return [Chunk(turn, part, text) for part, text in enumerate(filter(None, texts))]


def _cut(text: str) -> int:
    for ending in _ENDINGS:
        start = text.rfind(ending, MAX_CHUNK_CHARS - _SEARCHED_CHARS, MAX_CHUNK_CHARS)
        if start >= 0:
            return start + len(ending)
    return MAX_CHUNK_CHARS


def turn_seq(key: str) -> int:
    """Return the seq of the turn that the key of a chunk, or of a part of one, belongs to."""
    return int(key.partition(":")[0])
