"""Segments: what is stored and regenerated as one text, with the names of its places in the matrices."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from memagent.backends.memo.config import OWN_DIMS, PIECE_TOKENS, TURNS_PER_MATRIX
from memagent.backends.memo.tokenizer import ByteTokenizer


@dataclass(frozen=True, slots=True)
class Segment:
    """A turn, or a chunk of a long one, without its text.

    Attributes:
        turn_id: id of the turn, of which all random vectors of the segment are a function.
        seq: of the turn.
        part: its place in the turn, from 0.
        first_piece: how many pieces of the turn come before its own.
        pieces: how many pieces of at most ``PIECE_TOKENS`` tokens its text has.
        turn_pieces: how many pieces the whole turn has.
        text_check: salted hash of its text: what is regenerated is compared with it.
        rows_check: salted hash of its active rows in the index: what is subtracted is compared with it.
    """

    turn_id: str
    seq: int
    part: int
    first_piece: int
    pieces: int
    turn_pieces: int
    text_check: str
    rows_check: str

    @property
    def addresses(self) -> list[Address]:
        """Where its pieces are stored."""
        return [
            address(self.turn_id, self.seq, number, self.turn_pieces)
            for number in range(self.first_piece, self.first_piece + self.pieces)
        ]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a piece is stored.

    Attributes:
        matrix: name of the sequence matrix.
        dim: its size.
        code: name of the piece's code.
    """

    matrix: str
    dim: int
    code: str


def address(turn_id: str, seq: int, number: int, turn_pieces: int) -> Address:
    """Return the address of a piece: a function of its turn alone, so that the order of writing changes nothing.

    Short turns share the matrix of their block of seqs. A long turn has matrices of its own, as large as it needs.

    Args:
        turn_id: id of the turn.
        seq: of the turn.
        number: of the piece in the turn, from 0.
        turn_pieces: how many pieces the turn has.
    """
    code = f"piece {turn_id}"
    if turn_pieces == 1:
        return Address(f"block {seq // TURNS_PER_MATRIX}", OWN_DIMS[-1][1], f"{code} 0")
    most = OWN_DIMS[-1][0]
    group = number // most
    in_group = min(most, turn_pieces - group * most)
    dim = next(dim for pieces, dim in OWN_DIMS if in_group <= pieces)
    return Address(f"turn {seq} {group}", dim, f"{code} {number}")


def checked_segments(rows: Any) -> list[Segment]:
    """Return the segments of a stored state.

    Args:
        rows: their fields, as JSON holds them.

    Raises:
        ValueError: a field is of another type, or the segments are not all those of their turns, by seq and part.
    """
    from pydantic import TypeAdapter

    segments = TypeAdapter(list[Segment]).validate_json(json.dumps(rows), strict=True)
    turns = [(seq, list(parts)) for seq, parts in groupby(segments, key=lambda segment: segment.seq)]
    if [seq for seq, _ in turns] != sorted({segment.seq for segment in segments}):
        raise ValueError("its segments are not in the order of their turns")
    for seq, parts in turns:
        starts = [0, *accumulate(part.pieces for part in parts)]
        expected = [(number, start, starts[-1]) for number, start in enumerate(starts[:-1])]
        found = [(part.part, part.first_piece, part.turn_pieces) for part in parts]
        if found != expected or min(part.pieces for part in parts) < 1:
            raise ValueError(f"the segments of turn {seq} are not all that it has")
    return segments


def pieces_of(text: str, tokenizer: ByteTokenizer) -> list[list[int]]:
    """Return the token ids of a text in pieces; the last one ends with the end token."""
    ids = [*tokenizer.encode(text), tokenizer.end]
    return [ids[start : start + PIECE_TOKENS] for start in range(0, len(ids), PIECE_TOKENS)]


def check_of(turn_id: str, part: int, content: str) -> str:
    """Return a check of a segment: 64 bits of BLAKE2b, keyed by its turn's id, as hexadecimal digits."""
    key = hashlib.sha256(f"{turn_id} {part}".encode()).digest()
    return hashlib.blake2b(content.encode(), digest_size=8, key=key).hexdigest()
