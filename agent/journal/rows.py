"""From rows of the database to turns, refusing what no journal writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from memagent.agent.journal.chain import timestamp
from memagent.agent.journal.database import DamagedDatabaseError
from memagent.agent.journal.records import ROLES, Forgetting
from memagent.backends.records import Turn

PAGE = 1000
LARGEST_SEQ = 2**53 - 1
"""The largest whole number that every reader of JSON keeps exact."""


class DamagedRowError(DamagedDatabaseError):
    """A row holds what the journal never writes."""


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
        "in_view": json.dumps(turn.in_view),
        "derived": turn.derived,
        "salt": salt,
    }


def row_turn(row: Row[Any]) -> Turn:
    """Return the turn that a row holds.

    Raises:
        DamagedRowError: it holds no turn: a value has another type or cannot be read.
    """
    with _damage(f"turn {row.seq}"):
        turn = Turn(
            seq=row.seq,
            id=row.id,
            session=row.session,
            role=row.role,
            text=row.text,
            created_at=row_time(row.created_at),
            speaker=row.speaker,
            in_view=tuple(json.loads(row.in_view)),
            derived=row.derived,
        )
        texts = (turn.id, turn.session, turn.role, turn.text, turn.speaker or "")
        if not all(isinstance(value, str) for value in texts):
            raise TypeError("a text is not text")
        if not all(isinstance(value, int) for value in (turn.seq, *turn.in_view)):
            raise TypeError("a number is no number")
        if turn.role not in ROLES or not isinstance(turn.derived, bool):
            raise ValueError("a value is none of those there are")
        return turn


def row_forgetting(row: Row[Any]) -> Forgetting:
    """Return the forgetting that a row holds.

    Raises:
        DamagedRowError: it holds none.
    """
    with _damage(f"forgetting {row.number}"):
        if not (isinstance(row.seq, int) and isinstance(row.turn_id, str)):
            raise TypeError("a value has another type")
        return Forgetting(row.number, row.seq, row.turn_id, row_time(row.forgotten_at))


def row_time(value: str) -> datetime:
    """Return the time that a row holds, in UTC.

    Raises:
        DamagedRowError: it holds none.
    """
    with _damage("time"):
        return datetime.fromisoformat(value).astimezone(UTC)


def pages(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Split a list so that no statement has more bound values than a database takes."""
    return (items[start : start + PAGE] for start in range(0, len(items), PAGE))


@contextmanager
def _damage(what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DamagedRowError(
            f"The journal's {what} is damaged ({error}); it was left untouched. Restore the journal from a backup or an "
            "export; `memagent doctor` says more."
        ) from error
