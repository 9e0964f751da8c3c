"""What the journal takes in and gives out besides turns, and what it refuses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from memagent.backends.errors import InputError
from memagent.backends.records import Attachment, Turn

ROLES = ("user", "assistant", "system", "tool")
MAX_ATTACHMENTS = 8
"""Most attachments of one turn."""
MAX_ATTACHMENT_BYTES = 16 * 2**20
"""Size of the largest attachment."""
MAX_TURN_ATTACHMENT_BYTES = 32 * 2**20
"""Most bytes that the attachments of one turn have together."""

MAX_PINS = 8
"""Most pinned turns of a user: each takes room in every prompt."""

MAX_NAME_CHARACTERS = 255
"""Most characters of the name of a user, session or speaker."""
# RFC 6838, section 4.2: restricted-name "/" restricted-name. Upper case means the same, so one spelling is enough.
_RESTRICTED_NAME = r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE = re.compile(f"{_RESTRICTED_NAME}/{_RESTRICTED_NAME}")


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation.

    Attributes:
        name: of the session.
        created_at: when it began.
        turns: how many turns are left in it.
        last_at: when the last of them was; None: none is left.
        title: the beginning of the user's first message in it, on one line; empty: there is none.
    """

    name: str
    created_at: datetime
    turns: int
    last_at: datetime | None
    title: str = ""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """The tombstone of a forgotten turn: number, id and time, without its text, role or session.

    Attributes:
        number: position among the user's forgettings, from 1.
        seq, turn_id: of the forgotten turn.
        forgotten_at: when it was forgotten.
    """

    number: int
    seq: int
    turn_id: str
    forgotten_at: datetime


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a journal reaches, with the digests that prove it. High-water marks and stored states hold one.

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
    """A part of forgetting that is still to be done: a file that may still hold forgotten turns.

    Attributes:
        backend: the backend of the stored state; empty: the journal's own file.
        place: the home that keeps that state; see ``Home.place``.
        forgetting: number of the last forgetting that it must follow.
    """

    backend: str
    place: str
    forgetting: int


@dataclass(frozen=True, slots=True)
class NewAttachment:
    """A file for a new turn.

    Attributes:
        media_type: as in ``image/png``, in lower case; see RFC 6838.
        content: the bytes, at least one and at most ``MAX_ATTACHMENT_BYTES``.
    """

    media_type: str
    content: bytes

    def descriptor(self) -> Attachment:
        """Return media type, size and digest of the content."""
        return Attachment(self.media_type, len(self.content), hashlib.sha256(self.content).hexdigest())


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A turn before the journal gives it a seq.

    Attributes:
        session, role, text, speaker, in_view, derived, recalled: as in ``Turn``.
        created_at: None: the present.
        attachments: the turn's files, in order.
        pinned: whether every prompt holds it from now on, if fewer than ``MAX_PINS`` turns are pinned.
        id, seq, salt: None: the journal makes them. An import gives those of the export, so that the chain of digests
            comes out the same.
    """

    session: str
    role: str
    text: str
    speaker: str | None = None
    created_at: datetime | None = None
    in_view: tuple[int, ...] = ()
    derived: bool = False
    recalled: tuple[int, ...] = ()
    attachments: tuple[NewAttachment, ...] = ()
    pinned: bool = False
    id: str | None = None
    seq: int | None = None
    salt: bytes | None = None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A forgetting from an export.

    Attributes:
        seq, turn_id, forgotten_at: as in ``Forgetting``.
        leaf: of the turn in the export's chain; None: the turn is in no chain.
    """

    seq: int
    turn_id: str
    forgotten_at: datetime
    leaf: bytes | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One link of the chain.

    Attributes:
        leaf: digest of the turn; see ``chain``.
        turn, salt: the turn and the salt of its leaf; None: the turn was forgotten, or is lost.
        forgetting: the tombstone of the turn; None: the turn was not forgotten.
    """

    leaf: bytes
    turn: Turn | None
    salt: bytes | None
    forgetting: Forgetting | None


def check_name(what: str, name: str) -> None:
    """Refuse a session or user name that is empty, too long, or not printable.

    Args:
        what: the kind of name, for the message.
        name: at most 255 characters.

    Raises:
        InputError: the message says what is wrong.
    """
    if not name.strip():
        raise InputError(f"The {what} is empty.")
    if len(name) > MAX_NAME_CHARACTERS:
        raise InputError(f"The {what} has {len(name)} characters; {MAX_NAME_CHARACTERS} at most.")
    if not name.isprintable():
        raise InputError(f"The {what} {name!r} holds characters that cannot be printed.")


def check_text(text: str) -> None:
    """Refuse a text no journal can hold: empty, with NUL characters, or not valid Unicode.

    Raises:
        InputError: the message says what is wrong and what to do.
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


def check_attachments(attachments: Sequence[NewAttachment]) -> None:
    """Refuse attachments that are too many, too large or empty, or have no proper media type.

    Raises:
        InputError: the message says what is wrong with which attachment, counted from 0.
    """
    if len(attachments) > MAX_ATTACHMENTS:
        raise InputError(f"The turn has {len(attachments)} attachments; {MAX_ATTACHMENTS} at most.")
    for position, attachment in enumerate(attachments):
        size = len(attachment.content)
        if not _MEDIA_TYPE.fullmatch(attachment.media_type):
            raise InputError(
                f"The media type {attachment.media_type!r} of attachment {position} cannot be used; expected type/subtype "
                "in lower case, for instance image/png."
            )
        if not size:
            raise InputError(f"Attachment {position} ({attachment.media_type}) is empty.")
        if size > MAX_ATTACHMENT_BYTES:
            raise InputError(
                f"Attachment {position} ({attachment.media_type}) has {size:,} bytes; {MAX_ATTACHMENT_BYTES:,} at most."
            )
    total = sum(len(attachment.content) for attachment in attachments)
    if total > MAX_TURN_ATTACHMENT_BYTES:
        raise InputError(
            f"The attachments have {total:,} bytes together; {MAX_TURN_ATTACHMENT_BYTES:,} at most."
        )


def check_turn(turn: NewTurn) -> None:
    """Refuse a turn that cannot be stored as it is.

    Raises:
        InputError: a name, the text, the role or an attachment cannot be stored, or ``recalled`` names a turn that
            was not in view.
    """
    check_name("session name", turn.session)
    check_text(turn.text)
    if turn.speaker is not None:
        check_name("speaker's name", turn.speaker)
    if turn.role not in ROLES:
        raise InputError(f"The role {turn.role!r} is none of {', '.join(ROLES)}.")
    if turn.recalled and not set(turn.recalled).issubset(turn.in_view):
        raise InputError("A turn is recalled but not in view; recalled turns must be in view.")
    if turn.attachments:
        check_attachments(turn.attachments)
