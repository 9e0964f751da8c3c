"""What the journal gives out besides turns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation: its name, when it began, how many turns are left in it, when the last was."""

    name: str
    created_at: datetime
    turns: int
    last_at: datetime | None


@dataclass(frozen=True, slots=True)
class Forgetting:
    """The tombstone of a forgotten turn: everything but what was said, by whom and where.

    Attributes:
        number: position among the user's forgettings, from 1.
        seq, turn_id: of the turn that is gone.
        forgotten_at: when.
    """

    number: int
    seq: int
    turn_id: str
    forgotten_at: datetime
