"""What the journal takes in and gives out besides turns, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from memagent.backends.errors import InputError
from memagent.backends.records import Turn

ROLES = ("user", "assistant", "system", "tool")
_LONGEST_NAME = 255


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


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a journal reaches, and what vouches for it: what a high-water mark or a stored state claims.

    Attributes:
        seq: the last turn's seq; 0 if there was none.
        head: the chain's head at that turn, 64 hexadecimal digits; see ``chain``.
        forgetting: the last forgetting's number; 0 if there was none.
        forgetting_head: the head of the forgettings' chain there.
    """

    seq: int
    head: str
    forgetting: int
    forgetting_head: str

    def furthest(self, other: Extent) -> Extent:
        """Return the further of both in turns and in forgettings."""
        turns = self if self.seq >= other.seq else other
        forgettings = self if self.forgetting >= other.forgetting else other
        return Extent(turns.seq, turns.head, forgettings.forgetting, forgettings.forgetting_head)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A part of forgetting that is still to be done.

    Attributes:
        backend: whose stored state may still hold the turns; empty: the journal's own file may.
        place: the home that keeps that state; see ``Home.place``.
        forgetting: number of the last forgetting that it has to follow.
    """

    backend: str
    place: str
    forgetting: int


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn before the journal has given it a seq; the fields are those of ``Turn``.

    An import also gives the ``salt`` of the turn's digest, so that the chain comes out the same.
    """

    session: str
    role: str
    text: str
    speaker: str | None = None
    created_at: datetime | None = None
    in_view: tuple[int, ...] = ()
    derived: bool = False
    id: str | None = None
    seq: int | None = None
    salt: bytes | None = None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A forgetting taken over from an export.

    Attributes:
        seq, turn_id, forgotten_at: as in ``Forgetting``.
        leaf: the turn's leaf in the export's chain, where it is in it; see ``chain``.
    """

    seq: int
    turn_id: str
    forgotten_at: datetime
    leaf: bytes | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One link of the chain: a turn with the salt of its leaf, or the tombstone of one."""

    leaf: bytes
    turn: Turn | None
    salt: bytes | None
    forgetting: Forgetting | None


def check_name(what: str, name: str) -> None:
    """Refuse a session or user name that is empty, too long, or not printable.

    Raises:
        InputError: with what is wrong.
    """
    if not name.strip():
        raise InputError(f"The {what} is empty.")
    if len(name) > _LONGEST_NAME:
        raise InputError(f"The {what} has {len(name)} characters; {_LONGEST_NAME} at most.")
    if not name.isprintable():
        raise InputError(f"The {what} {name!r} holds characters that cannot be printed.")


def check_text(text: str) -> None:
    """Refuse a text no journal can hold: empty, with NUL characters, or not valid Unicode.

    Raises:
        InputError: with what is wrong and what to do.
    """
    if not text.strip():
        raise InputError("The message is empty: there is nothing to remember or answer.")
    if "\0" in text:
        raise InputError(f"The message holds a NUL character at position {text.index(chr(0))}; remove it.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The message is not valid UTF-8 at character {error.start}. Nothing was stored; "
            "convert it first, for instance with `iconv -f latin1 -t utf-8`."
        ) from error


def check_turn(turn: NewTurn) -> None:
    """Refuse a turn whose session, text or role cannot be stored.

    Raises:
        InputError: with what is wrong.
    """
    check_name("session name", turn.session)
    check_text(turn.text)
    if turn.speaker is not None:
        check_name("speaker's name", turn.speaker)
    if turn.role not in ROLES:
        raise InputError(f"The role {turn.role!r} is none of {', '.join(ROLES)}.")
