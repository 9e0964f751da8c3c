"""Segments: what is stored and regenerated as one text, with the names of its places in the matrices."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import accumulate, groupby

from memagent.backends.memo.config import OWN_DIMS, SHARED_DIM, TURNS_PER_MATRIX, WINDOW_TOKENS
from memagent.backends.memo.tokenizer import ByteTokenizer


@dataclass(frozen=True, slots=True)
class Segment:
    """A turn, or a chunk of a long one, without its text.

    Attributes:
        turn_id: id of the turn, of which all random vectors of the segment are a function.
        seq: of the turn.
        part: its place in the turn, from 0.
        first_window: how many windows of the turn come before its own.
        windows: how many windows of at most ``WINDOW_TOKENS`` tokens its text has.
        turn_windows: how many windows the whole turn has.
        text_check: salted hash of its text: what is regenerated is compared with it.
        rows_check: salted hash of its active rows in the index: what is subtracted is compared with it.
    """

    turn_id: str
    seq: int
    part: int
    first_window: int
    windows: int
    turn_windows: int
    text_check: str
    rows_check: str

    @property
    def addresses(self) -> list[Address]:
        """Where its windows are stored."""
        return [
            address(self.turn_id, self.seq, number, self.turn_windows)
            for number in range(self.first_window, self.first_window + self.windows)
        ]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a window is stored.

    Attributes:
        matrix: name of the sequence matrix.
        dim: its size.
        code: name of the window's code.
    """

    matrix: str
    dim: int
    code: str


def address(turn_id: str, seq: int, number: int, turn_windows: int) -> Address:
    """Return the address of a window: a function of its turn alone, so that the order of writing changes nothing.

    Short turns share the matrix of their block of seqs. A long turn has matrices of its own, as large as it needs.

    Args:
        turn_id: id of the turn.
        seq: of the turn.
        number: of the window in the turn, from 0.
        turn_windows: how many windows the turn has.
    """
    code = f"window {turn_id}"
    if turn_windows == 1:
        return Address(f"block {seq // TURNS_PER_MATRIX}", SHARED_DIM, f"{code} 0")
    max_windows = OWN_DIMS[-1][0]
    group = number // max_windows
    in_group = min(max_windows, turn_windows - group * max_windows)
    dim = next(dim for windows, dim in OWN_DIMS if in_group <= windows)
    return Address(f"turn {seq} {group}", dim, f"{code} {number}")


@dataclass(frozen=True)
class StoredState:
    """What is stored of a memory beside its matrices.

    Attributes:
        segments: all segments, by seq and part.
        pairs: number of tokens in each sequence matrix, by its name.
    """

    segments: list[Segment]
    pairs: dict[str, int]


def parse_state(text: str) -> StoredState:
    """Return what was stored as JSON.

    Raises:
        ValueError: it is no JSON, a field is of another type, or the segments are not all those of their turns.
    """
    from pydantic import TypeAdapter

    state = TypeAdapter(StoredState).validate_json(text, strict=True)
    turns = [(seq, list(parts)) for seq, parts in groupby(state.segments, key=lambda segment: segment.seq)]
    if [seq for seq, _ in turns] != sorted({segment.seq for segment in state.segments}):
        raise ValueError("its segments are not in the order of their turns")
    for seq, parts in turns:
        starts = [0, *accumulate(part.windows for part in parts)]
        expected = [(number, start, starts[-1]) for number, start in enumerate(starts[:-1])]
        actual = [(part.part, part.first_window, part.turn_windows) for part in parts]
        if actual != expected or min(part.windows for part in parts) < 1:
            raise ValueError(f"the segments of turn {seq} are not all that it has")
    if sum(segment.windows for segment in state.segments) > sum(state.pairs.values()):
        raise ValueError("its segments have more windows than its sequence matrices have tokens")
    return state


def windows_of(text: str, tokenizer: ByteTokenizer) -> list[list[int]]:
    """Return the token ids of a text in windows; the last one ends with the end token."""
    ids = [*tokenizer.encode(text), tokenizer.end]
    return [ids[start : start + WINDOW_TOKENS] for start in range(0, len(ids), WINDOW_TOKENS)]


def check_of(turn_id: str, part: int, content: str) -> str:
    """Return a check of a segment: 64 bits of BLAKE2b, keyed by its turn's id, as hexadecimal digits."""
    key = hashlib.sha256(f"{turn_id} {part}".encode()).digest()
    return hashlib.blake2b(content.encode(), digest_size=8, key=key).hexdigest()
