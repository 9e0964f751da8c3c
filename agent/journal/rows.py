"""From rows of the database to turns, refusing what no journal writes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from memagent.agent.journal.chain import timestamp
from memagent.agent.journal.database import DamagedDatabaseError
from memagent.agent.journal.records import ROLES, Forgetting
from memagent.backends.records import Attachment, Turn

PAGE = 1000
LARGEST_SEQ = 2**53 - 1
"""The largest whole number that every reader of JSON keeps exact."""


READING_ERRORS = (ValueError, TypeError, OverflowError, RecursionError)
"""What reading a value raises that the journal never wrote."""


class DamagedRowError(DamagedDatabaseError):
    """A row holds what the journal never writes.

    Args:
        what: whose row it is.
        error: what is wrong with it.
    """

    def __init__(self, what: str, error: Exception) -> None:
        super().__init__(
            f"The journal's {what} is damaged ({error}); it was left untouched. Restore the journal from a backup or an "
            "export; `memagent doctor` says more."
        )


def turn_row(user: str, turn: Turn, salt: bytes) -> dict[str, object]:
    """Return a turn as a row of the table ``turns``."""
    return {
        "user": user,
        "seq": turn.seq,
        "id": turn.id,
        "session": turn.session,
        "role": turn.role,
        "speaker": turn.speaker,
        "text": turn.text,
        "created_at": timestamp(turn.created_at),
        "in_view": json.dumps(turn.in_view) if turn.in_view else "[]",
        "derived": turn.derived,
        "salt": salt,
        "recalled": json.dumps(turn.recalled) if turn.recalled else None,
        "attachment_count": len(turn.attachments),
    }


def row_turn(row: Row[Any], attachments: tuple[Attachment, ...] = ()) -> Turn:
    """Return the turn that a row holds.

    Args:
        row: of the table ``turns``.
        attachments: of the turn; they have rows of their own.

    Raises:
        DamagedRowError: it holds no turn: a value has another type or cannot be read.
    """
    try:
        turn = Turn(
            seq=row.seq,
            id=row.id,
            session=row.session,
            role=row.role,
            text=row.text,
            created_at=_utc(row.created_at),
            speaker=row.speaker,
            in_view=_seqs(row.in_view),
            derived=row.derived,
            recalled=() if row.recalled is None else _seqs(row.recalled),
            attachments=attachments,
        )
        # Sets of types, as this runs for every turn that is read.
        if {*map(type, (turn.id, turn.session, turn.role, turn.text, turn.speaker or ""))} != {str}:
            raise TypeError("a text is not text")
        if {*map(type, (turn.seq, row.attachment_count, *turn.in_view, *turn.recalled))} != {int}:
            raise TypeError("a number is no number")
        if turn.role not in ROLES or not isinstance(turn.derived, bool):
            raise ValueError("a value is none of those there are")
    except READING_ERRORS as error:
        raise DamagedRowError(f"turn {row.seq}", error) from error
    return turn


def row_forgetting(row: Row[Any]) -> Forgetting:
    """Return the forgetting that a row holds.

    Raises:
        DamagedRowError: it holds none.
    """
    try:
        if not (isinstance(row.seq, int) and isinstance(row.turn_id, str)):
            raise TypeError("a value has another type")
        return Forgetting(row.number, row.seq, row.turn_id, _utc(row.forgotten_at))
    except READING_ERRORS as error:
        raise DamagedRowError(f"forgetting {row.number}", error) from error


def row_time(value: str) -> datetime:
    """Return the time that a row holds, in UTC.

    Raises:
        DamagedRowError: it holds none.
    """
    try:
        return _utc(value)
    except READING_ERRORS as error:
        raise DamagedRowError("time", error) from error


def last_key(page: Sequence[Row[Any]], after: tuple[int, ...], *columns: str) -> tuple[int, ...]:
    """Return the key of a page's last row, after which the next page begins.

    Args:
        page: rows in order of their key.
        after: the key of the last row of the page before.
        columns: of the key.

    Raises:
        DamagedRowError: a row does not come after the one before it, as in a damaged index: reading on might never end.
    """
    try:
        for row in page:
            key = tuple(getattr(row, column) for column in columns)
            if not key > after:
                raise ValueError(f"{key[0]} stands behind {after[0]}")
            after = key
    except READING_ERRORS as error:
        raise DamagedRowError("order", error) from error
    return after


def pages(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Split a list so that no statement has more bound values than a database takes."""
    return (items[start : start + PAGE] for start in range(0, len(items), PAGE))


def seq_pages(seqs: Collection[int]) -> Iterator[Sequence[int]]:
    """Split seqs as ``pages`` does, ascending; numbers that no turn can have are left out, because databases refuse them."""
    return pages(sorted(seq for seq in seqs if 0 < seq <= LARGEST_SEQ))


def _utc(value: str) -> datetime:
    return datetime.fromisoformat(value).astimezone(UTC)


def _seqs(value: str) -> tuple[int, ...]:
    return () if value == "[]" else tuple(json.loads(value))
