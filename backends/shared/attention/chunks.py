"""Cutting turns into pieces: what the map stores, addresses and recalls as a whole.

Every piece is written like a line of a play, ``User: My dog is called Biscuit.``, so that who speaks is part of
what is remembered; the same line begins a question. Nothing of a model's chat template is stored: where someone writes
a control token such as ``<|im_end|>``, its letters are read (``tokens.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memagent.backends.records import Turn
from memagent.backends.shared.tokens import TextTokenizer

LONGEST = 128
"""Most tokens of one piece; a piece's tokens are numbered within it, so this is part of the stored format."""

_OPENING = "Our conversation:\n"


@dataclass(frozen=True, slots=True)
class Piece:
    """A turn, or a stretch of a long one.

    Attributes:
        turn: where it is from.
        part: its place in the turn, from 0.
        text: what of the turn's text it holds.
        ids: its tokens, the speaker's name first; at most ``LONGEST``.
    """

    turn: Turn
    part: int
    text: str
    ids: tuple[int, ...]


class Writer:
    """Writes turns and questions as tokens of one tokenizer.

    Args:
        opening: what everything is read after.
    """

    def __init__(self, tokenizer: Any, opening: str = _OPENING) -> None:
        self._tokens = TextTokenizer(tokenizer)
        self._newline = self._tokens.encode("\n")
        start = tokenizer.bos_token_id
        # What opens a text draws much attention and stands for nothing: it is read, never stored.
        self.opening = [*([] if start is None else [start]), *self._tokens.encode(opening)]

    def cut(self, turn: Turn) -> list[Piece]:
        """Cut a turn into pieces of at most ``LONGEST`` tokens."""
        name = self._name(turn.speaker or turn.role.title())
        said = f" {turn.text}"
        ids, places = self._tokens.encode_with_offsets(said)
        pieces: list[Piece] = []
        start = 0
        while start < len(ids):
            end = _end(said, places, start, LONGEST - len(name))
            text = turn.text[max(0, places[start][0] - 1) : max(0, places[end - 1][1] - 1)]
            pieces.append(Piece(turn, len(pieces), text.strip() or text, (*name, *ids[start:end])))
            start = end
        return pieces

    def before(self, context: Sequence[Piece]) -> list[int]:
        """Return the tokens that a piece is read after: the opening, then the pieces before it."""
        return [*self.opening, *(token for piece in context for token in (*piece.ids, *self._newline))]

    def question(self, text: str) -> tuple[list[int], list[int]]:
        """Return the tokens a question is read after, and the question's own, at most ``LONGEST``: its last ones."""
        return [*self.opening, *self._name("User")], self._tokens.encode(" " + text)[-LONGEST:]

    def reply(self, text: str) -> tuple[list[int], list[int]]:
        """Return the same for a question that is asked right after a piece, which stands there already."""
        return [*self._newline, *self._name("User")], self.question(text)[1]

    def _name(self, name: str) -> list[int]:
        return self._tokens.encode(f"{name}:")[-LONGEST // 4 :]


def _end(text: str, places: Sequence[tuple[int, int]], start: int, room: int) -> int:
    """Return where a piece that begins at token ``start`` ends: between words if there is a gap near."""
    end = start + room
    if end >= len(places):
        return len(places)
    gaps = (at for at in range(end, end - room // 4, -1) if text[places[at][0]].isspace())
    # A character may take several tokens, which stay together.
    whole = (at for at in range(end, start, -1) if places[at][0] >= places[at - 1][1])
    return next(gaps, next(whole, end))
