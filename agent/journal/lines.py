"""The lines of an export: what each may hold. ``proof`` reads them one by one.

The first line is a header; then come sessions, then turns and tombstones in order of their seq, then tombstones that
are in no chain (taken over from elsewhere, or older than the chain), each a JSON object with a ``kind``. The last line
holds the head of the chain over all of them, which proves that nothing was cut off or changed.

Formats: 1 has no chain and no last line. 2 adds both. 3 adds ``recalled`` and ``attachments`` to turns; the content of
an attachment is base64. 4 adds ``pinned``, which no digest covers.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
)

from memagent.agent.journal.records import NewAttachment, NewTurn
from memagent.agent.journal.rows import LARGEST_SEQ
from memagent.backends.records import Attachment, Turn

FORMAT = 4


def _in_utc(when: datetime) -> datetime:
    try:
        return when.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is outside of the years 1 to 9999 in UTC") from error


def _from_base64(encoded: bytes) -> bytes:
    return base64.b64decode(encoded, validate=True)


Base64 = Annotated[bytes, AfterValidator(_from_base64)]
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}\z")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
Seq = Annotated[int, Field(ge=1, le=LARGEST_SEQ)]


class _Line(BaseModel):
    """A line, or a part of one: unknown fields are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Header(_Line):
    """The first line."""

    kind: Literal["memagent"]
    format: int
    user: str


class SessionLine(_Line):
    """A session's name and beginning."""

    kind: Literal["session"]
    name: str
    created_at: Moment


class AttachmentField(_Line):
    """An attachment within the line of its turn."""

    media_type: str
    size: int
    sha256: Digest
    content: Base64


class TurnLine(_Line):
    """A turn, and the salt of its leaf in the chain."""

    kind: Literal["turn"]
    seq: Seq
    id: Id
    session: str
    role: Literal["user", "assistant", "system", "tool"]
    speaker: str | None = None
    text: str
    created_at: Moment
    in_view: tuple[Seq, ...] = ()
    derived: bool = False
    recalled: tuple[Seq, ...] = ()
    attachments: tuple[AttachmentField, ...] = ()
    pinned: bool = False
    salt: Digest | None = None

    def new_turn(self) -> NewTurn:
        """Return the turn for a journal that does not have it yet."""
        return NewTurn(
            session=self.session,
            role=self.role,
            text=self.text,
            speaker=self.speaker,
            created_at=self.created_at,
            in_view=self.in_view,
            derived=self.derived,
            recalled=self.recalled,
            attachments=tuple(NewAttachment(file.media_type, file.content) for file in self.attachments),
            pinned=self.pinned,
            id=self.id,
            seq=self.seq,
            salt=bytes.fromhex(self.salt) if self.salt is not None else None,
        )

    def turn(self) -> Turn:
        """Return the turn as the journal that was exported held it."""
        return Turn(
            seq=self.seq,
            id=self.id,
            session=self.session,
            role=self.role,
            text=self.text,
            created_at=self.created_at,
            speaker=self.speaker,
            in_view=self.in_view,
            derived=self.derived,
            recalled=self.recalled,
            attachments=tuple(
                Attachment(file.media_type, file.size, file.sha256) for file in self.attachments
            ),
        )


class ForgettingLine(_Line):
    """A forgotten turn, and its leaf where it is in the chain. ``seq`` 0: its seq is another turn's here."""

    kind: Literal["forgetting"]
    seq: int = Field(ge=0, le=LARGEST_SEQ)
    id: Id
    forgotten_at: Moment
    leaf: Digest | None = None


class End(_Line):
    """The last line: how much there was, and the chain's head."""

    kind: Literal["end"]
    turns: int
    forgettings: int
    head: Digest


Line = Header | SessionLine | TurnLine | ForgettingLine | End
LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])
