"""Reading an export line by line, and proving its chain of digests on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from pydantic import ValidationError

from memagent.agent.journal.chain import GENESIS, turn_head, turn_leaf
from memagent.agent.journal.encoding import text_start
from memagent.agent.journal.lines import (
    FORMAT,
    LINE,
    End,
    ForgettingLine,
    Header,
    Line,
    SessionLine,
    TurnLine,
)
from memagent.agent.journal.records import MAX_TURN_ATTACHMENT_BYTES, check_name, check_turn
from memagent.backends.errors import InputError, MemagentError

_FORMAT_WITHOUT_CHAIN = 1
# 64 MiB for the text and all else, and the attachments in base64, which takes four bytes for three.
_MAX_LINE_BYTES = 64 * 2**20 + MAX_TURN_ATTACHMENT_BYTES // 3 * 4


@dataclass(frozen=True, slots=True)
class Source:
    """An export that can be read several times: its name for messages, and a seekable binary file."""

    name: str
    file: BinaryIO


@dataclass(slots=True)
class Proof:
    """The proof of an export, as far as the export is read.

    Attributes:
        format: of the file; 0 before its header is read.
        lines, turns, forgettings: how many were read.
        head: the chain's head, meaningful if every turn has a salt.
        ended: the last line was read and agrees with the lines before it.
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
            InputError: the line cannot follow the lines before it. The message lacks the line's number.
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
            self._check_end(line)

    def _add_entry(self, line: TurnLine | ForgettingLine) -> None:
        """Count a turn or a tombstone and lengthen the chain by it.

        Raises:
            InputError: its id was there before, its seq does not follow, or its salt is missing.
        """
        if line.id in self._ids:
            raise InputError(f"the id {line.id} stands in an earlier line too")
        self._ids.add(line.id)
        leaf: bytes | None = None
        if isinstance(line, TurnLine):
            self.turns += 1
            if line.salt is not None:
                leaf = turn_leaf(bytes.fromhex(line.salt), line.turn())
            elif self.format > _FORMAT_WITHOUT_CHAIN:
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

    def _check_end(self, line: End) -> None:
        """Compare the last line with what was read, and note that the export has ended.

        Raises:
            InputError: lines are missing or were changed.
        """
        if (line.turns, line.forgettings) != (self.turns, self.forgettings):
            raise InputError(
                f"the export had {line.turns:,} turns and {line.forgettings:,} forgettings, the file has {self.turns:,} and "
                f"{self.forgettings:,}: lines are missing"
            )
        if line.head != self.head.hex():
            raise InputError("the chain of digests ends in another head than was written: a line was changed")
        self.ended = True


def read_lines(source: Source, proof: Proof) -> Iterator[tuple[bytes, Line]]:
    """Yield bytes and content of each line, after ``proof`` took it in.

    Raises:
        InputError: a line is not what an export holds, or cannot follow the lines before it; the message names it. Or the
            file is not in UTF-8.
    """
    start = text_start(source.name, source.file)
    try:
        source.file.seek(start)
        while raw := source.file.readline(_MAX_LINE_BYTES + 1):
            if len(raw) > _MAX_LINE_BYTES:
                raise InputError(
                    f"{source.name}, line {proof.lines + 1}: longer than {_MAX_LINE_BYTES:,} bytes."
                )
            line = _parse_line(source.name, proof, raw)
            yield raw, line
    except OSError as error:
        raise InputError(f"{source.name} cannot be read: {error.strerror}.") from error


def prove(source: Source, advance: Callable[[int], None] = lambda size: None) -> Proof:
    """Read a whole export without importing anything, and prove its chain.

    Args:
        source: the export.
        advance: is called with the size of each line, in bytes.

    Returns:
        The proof; ``Proof.ended`` says whether a chain proves the export.

    Raises:
        InputError: the first bad line, by number, with what is wrong in it; or the file was cut off.
    """
    proof = Proof()
    for raw, _ in read_lines(source, proof):
        advance(len(raw))
    if not proof.lines:
        raise InputError(f"{source.name} is empty; an export begins with a header line.")
    if proof.format > _FORMAT_WITHOUT_CHAIN and not proof.ended:
        raise InputError(
            f"{source.name} ends after line {proof.lines:,} without its last line: it was cut off."
        )
    return proof


def _check_turn_line(line: TurnLine) -> None:
    """Refuse a turn that no journal takes, and attachments whose content is not what was exported."""
    new = line.new_turn()
    check_turn(new)
    for position, (field_, attachment) in enumerate(zip(line.attachments, new.attachments, strict=True)):
        descriptor = attachment.descriptor()
        if (descriptor.size, descriptor.sha256) != (field_.size, field_.sha256):
            raise InputError(
                f"attachment {position}: its content has another size or digest than was written"
            )


def _parse_line(name: str, proof: Proof, raw: bytes) -> Line:
    """Return a line, after ``proof`` took it in and its content was checked.

    Raises:
        InputError: the line is not what an export holds; the message names file and line.
    """
    try:
        line = LINE.validate_json(raw)
        proof.add(line)
        if isinstance(line, TurnLine):
            _check_turn_line(line)
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
