"""The lines of an export: what each may hold, read one by one and proved as they come.

The first line is a header; then come sessions, then turns and tombstones in order of their seq, then tombstones that
are in no chain (taken over from elsewhere, or older than the chain), each a JSON object with a ``kind``. The last line
holds the head of the chain over all of them, which proves that nothing was cut off or changed. Exports of format 1 have
no chain and no last line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, BinaryIO, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from memagent.agent.journal.chain import GENESIS, turn_head, turn_leaf
from memagent.agent.journal.records import check_name, check_text
from memagent.agent.journal.rows import LARGEST_SEQ
from memagent.backends.errors import InputError, MemagentError
from memagent.backends.records import Turn

FORMAT = 2
_LONGEST_LINE = 64 * 2**20
_BEFORE_CHAINS = 1


def _in_utc(when: datetime) -> datetime:
    try:
        return when.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is outside of the years 1 to 9999 in UTC") from error


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}\z")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
Seq = Annotated[int, Field(ge=1, le=LARGEST_SEQ)]


class _Line(BaseModel):
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
    salt: Digest | None = None

    def turn(self) -> Turn:
        """Return the turn that the line holds."""
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
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])


@dataclass(frozen=True, slots=True)
class Source:
    """An export to read, several times: its name for messages, and a seekable binary file."""

    name: str
    file: BinaryIO


@dataclass(slots=True)
class Proof:
    """What was read of an export so far, and the head of its chain.

    Attributes:
        format: of the file; 0 before its header was read.
        head: the chain's head, meaningful if every turn had a salt.
        ended: the last line was read and agreed.
    """

    format: int = 0
    lines: int = 0
    turns: int = 0
    forgettings: int = 0
    head: bytes = GENESIS
    ended: bool = False
    _last_seq: int = 0
    _ids: set[str] = field(default_factory=set)

    def add(self, line: Line) -> None:
        """Take in the next line.

        Raises:
            InputError: it cannot stand there; the message does not name the line's number.
        """
        self.lines += 1
        if self.ended:
            raise InputError("a line after the last one")
        if (self.lines == 1) != isinstance(line, Header):
            raise InputError(
                f"expected the header of an export, found a {line.kind}"
                if self.lines == 1
                else "a second header"
            )
        if isinstance(line, Header):
            if line.format > FORMAT:
                raise InputError(
                    f"the export has format {line.format}, this memagent reads up to {FORMAT}; upgrade memagent"
                )
            self.format = line.format
        elif isinstance(line, TurnLine | ForgettingLine):
            self._add_entry(line)
        elif isinstance(line, End):
            self._end(line)

    def _add_entry(self, line: TurnLine | ForgettingLine) -> None:
        if line.id in self._ids:
            raise InputError(f"the id {line.id} stands in an earlier line too")
        self._ids.add(line.id)
        leaf: bytes | None = None
        if isinstance(line, TurnLine):
            self.turns += 1
            if line.salt is not None:
                leaf = turn_leaf(bytes.fromhex(line.salt), line.turn())
            elif self.format > _BEFORE_CHAINS:
                raise InputError("the turn has no salt")
        else:
            self.forgettings += 1
            leaf = bytes.fromhex(line.leaf) if line.leaf is not None else None
        if leaf is not None or isinstance(line, TurnLine):
            if line.seq <= self._last_seq:
                raise InputError(f"seq {line.seq} does not follow {self._last_seq}")
            self._last_seq = line.seq
        if leaf is not None:
            self.head = turn_head(self.head, line.seq, line.id, leaf)

    def _end(self, line: End) -> None:
        if (line.turns, line.forgettings) != (self.turns, self.forgettings):
            raise InputError(
                f"the export had {line.turns:,} turns and {line.forgettings:,} forgettings, the file has {self.turns:,} and "
                f"{self.forgettings:,}: lines are missing"
            )
        if line.head != self.head.hex():
            raise InputError("the chain of digests ends in another head than was written: a line was changed")
        self.ended = True


def read_lines(source: Source, proof: Proof) -> Iterator[tuple[bytes, Line]]:
    """Yield bytes and content of each line, after ``proof`` has taken it in.

    Raises:
        InputError: a line is not what an export holds, or does not follow the one before; the message names it.
    """
    try:
        source.file.seek(0)
        while raw := source.file.readline(_LONGEST_LINE + 1):
            if len(raw) > _LONGEST_LINE:
                raise InputError(
                    f"{source.name}, line {proof.lines + 1}: longer than {_LONGEST_LINE:,} bytes."
                )
            line = _parsed(source.name, proof, raw)
            yield raw, line
    except OSError as error:
        raise InputError(f"{source.name} cannot be read: {error.strerror}.") from error


def prove(source: Source, advance: Callable[[int], None] = lambda size: None) -> Proof:
    """Read a whole export without importing anything, and prove its chain.

    Args:
        advance: is told the bytes of each line.

    Raises:
        InputError: the first bad line, by number, with what is wrong in it; or the file was cut off.
    """
    proof = Proof()
    for raw, _ in read_lines(source, proof):
        advance(len(raw))
    if not proof.lines:
        raise InputError(f"{source.name} is empty; an export begins with a header line.")
    if proof.format > _BEFORE_CHAINS and not proof.ended:
        raise InputError(
            f"{source.name} ends after line {proof.lines:,} without its last line: it was cut off."
        )
    return proof


def _parsed(name: str, proof: Proof, raw: bytes) -> Line:
    try:
        line = _LINE.validate_json(raw)
        proof.add(line)
        if isinstance(line, TurnLine):
            check_name("session name", line.session)
            check_text(line.text)
            if line.speaker is not None:
                check_name("speaker's name", line.speaker)
        if isinstance(line, SessionLine):
            check_name("session name", line.name)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        raise InputError(
            f"{name}, line {proof.lines + 1}: {where + ': ' if where else ''}{first['msg']}."
        ) from error
    except MemagentError as error:
        raise InputError(f"{name}, line {proof.lines}: {str(error).rstrip('.')}.") from error
    return line
