"""Moving a journal between machines: JSON lines, complete and exact.

The first line is a header; then come sessions, turns and forgettings, each a JSON object with a
``kind``. Exporting what was imported into an empty journal gives the same lines again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from memagent.agent.journal import Journal
from memagent.agent.journal.records import NewTurn, check_name, check_text
from memagent.backends.errors import InputError, MemagentError
from memagent.backends.protocol import Turn

FORMAT = 1
_BATCH = 5000
_LARGEST_SEQ = 2**53


def _in_utc(when: datetime) -> datetime:
    try:
        return when.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is outside of the years 1 to 9999 in UTC") from error


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Header(_Line):
    kind: Literal["memagent"]
    format: int
    user: str


class SessionLine(_Line):
    kind: Literal["session"]
    name: str
    created_at: Moment


class TurnLine(_Line):
    kind: Literal["turn"]
    seq: int = Field(ge=1, le=_LARGEST_SEQ)
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    session: str
    role: Literal["user", "assistant", "system", "tool"]
    speaker: str | None = None
    text: str
    created_at: Moment
    in_view: tuple[int, ...] = ()
    derived: bool = False


class ForgettingLine(_Line):
    kind: Literal["forgetting"]
    seq: int = Field(ge=0, le=_LARGEST_SEQ)
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    forgotten_at: Moment


Line = Annotated[Header | SessionLine | TurnLine | ForgettingLine, Field(discriminator="kind")]
_LINE: TypeAdapter[Header | SessionLine | TurnLine | ForgettingLine] = TypeAdapter(Line)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Attributes:
        added: turns that are new here.
        present: turns that were here already.
        forgotten_here: turns left out because they were forgotten in this journal.
        to_forget: seqs of turns here that the export says are forgotten; the caller forgets them.
    """

    added: int
    present: int
    forgotten_here: int
    to_forget: tuple[int, ...]


def export(journal: Journal, file: TextIO, *, session: str | None = None) -> int:
    """Write a journal, or one session of it, as JSON lines; return the number of turns written."""
    _write(file, {"kind": "memagent", "format": FORMAT, "user": journal.user})
    for one in journal.sessions():
        if session in (None, one.name):
            _write(
                file,
                {
                    "kind": "session",
                    "name": one.name,
                    "created_at": one.created_at.isoformat(timespec="microseconds"),
                },
            )
    written = 0
    for turn in journal.turns(session=session):
        _write(file, _turn_fields(turn))
        written += 1
    if session is None:
        for gone in journal.forgettings():
            when = gone.forgotten_at.isoformat(timespec="microseconds")
            _write(file, {"kind": "forgetting", "seq": gone.seq, "id": gone.turn_id, "forgotten_at": when})
    return written


def validate(path: Path, advance: Callable[[int], None] = lambda size: None) -> int:
    """Read a whole export without importing anything; return its number of lines.

    Raises:
        InputError: the first bad line, by number, with what is wrong in it.
    """
    count = 0
    for number, raw, line in _lines(path):
        if number == 1 and not isinstance(line, Header):
            raise InputError(f"{path}, line 1: expected the header of an export, found a {line.kind}.")
        advance(len(raw))
        count = number
    if not count:
        raise InputError(f"{path} is empty; an export begins with a header line.")
    return count


def load(journal: Journal, path: Path, advance: Callable[[int], None] = lambda size: None) -> Imported:
    """Add a validated export's turns to a journal, in batches, each committed.

    Turns keep their ids, so importing twice, or again after an interruption, adds nothing twice. Into
    an empty journal they keep their seqs too and memory is bounded; merging holds one number a turn.
    A turn forgotten here stays forgotten, and so do the replies in the file that saw it.
    """
    # Where each of the file's seqs is here; None while both are the same.
    moved: dict[int, int] | None = None if journal.last() == (0, 0) else {}
    gone_here: set[int] = set()
    added = present = 0
    to_forget: list[int] = []
    lines = _lines(path)
    while batch := list(islice(lines, _BATCH)):
        journal.add_sessions(
            {line.name: line.created_at for _, _, line in batch if isinstance(line, SessionLine)}
        )
        turns = {line.id: line for _, _, line in batch if isinstance(line, TurnLine)}
        gone = [line for _, _, line in batch if isinstance(line, ForgettingLine)]
        seen = journal.seen_ids([*turns, *(line.id for line in gone)])
        here = {line.seq: seen[line.id] for line in turns.values() if seen.get(line.id)}
        if moved is not None:
            moved.update(here)
        fresh = []
        for line in turns.values():
            if seen.get(line.id):
                continue
            saw_gone = line.role == "assistant" and not gone_here.isdisjoint(line.in_view)
            if line.id in seen or saw_gone:
                gone_here.add(line.seq)
            else:
                fresh.append(_new_turn(line))
        added += len(journal.extend(fresh, moved))
        present += len(here)
        to_forget += [seen[line.id] for line in gone if seen.get(line.id)]
        new_gone = [line for line in gone if line.id not in seen]
        if new_gone:
            taken = {turn.seq for turn in journal.get([line.seq for line in new_gone])}
            journal.add_forgettings(
                [(0 if line.seq in taken else line.seq, line.id, line.forgotten_at) for line in new_gone]
            )
        for _, raw, _ in batch:
            advance(len(raw))
    return Imported(added, present, len(gone_here), tuple(to_forget))


def _write(file: TextIO, fields: dict[str, Any]) -> None:
    file.write(json.dumps(fields, ensure_ascii=False) + "\n")


def _turn_fields(turn: Turn) -> dict[str, Any]:
    return {
        "kind": "turn",
        "seq": turn.seq,
        "id": turn.id,
        "session": turn.session,
        "role": turn.role,
        "speaker": turn.speaker,
        "text": turn.text,
        "created_at": turn.created_at.isoformat(timespec="microseconds"),
        "in_view": turn.in_view,
        "derived": turn.derived,
    }


def _new_turn(line: TurnLine) -> NewTurn:
    return NewTurn(
        session=line.session,
        role=line.role,
        text=line.text,
        speaker=line.speaker,
        created_at=line.created_at,
        in_view=line.in_view,
        derived=line.derived,
        id=line.id,
        seq=line.seq,
    )


def _lines(path: Path) -> Iterator[tuple[int, bytes, Header | SessionLine | TurnLine | ForgettingLine]]:
    """Yield number, bytes and content of each line.

    Raises:
        InputError: a line is not what an export holds.
    """
    last_seq = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = _parse(path, number, raw)
                if number > 1 and isinstance(line, Header):
                    raise InputError(f"{path}, line {number}: a second header. Nothing was imported.")
                if isinstance(line, TurnLine):
                    if line.seq <= last_seq:
                        raise InputError(
                            f"{path}, line {number}: seq {line.seq} does not follow {last_seq}. Nothing was imported."
                        )
                    last_seq = line.seq
                yield number, raw, line
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _parse(path: Path, number: int, raw: bytes) -> Header | SessionLine | TurnLine | ForgettingLine:
    try:
        line = _LINE.validate_json(raw)
        if isinstance(line, Header) and line.format > FORMAT:
            raise InputError(
                f"the export has format {line.format}, this memagent reads up to {FORMAT}; upgrade it"
            )
        if isinstance(line, TurnLine):
            check_name("session name", line.session)
            check_text(line.text)
            if line.speaker is not None:
                check_name("speaker's name", line.speaker)
        if isinstance(line, SessionLine):
            check_name("session name", line.name)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        raise InputError(
            f"{path}, line {number}: {where + ': ' if where else ''}{first['msg']}. Nothing was imported; mend the line and try again."
        ) from error
    except MemagentError as error:
        raise InputError(f"{path}, line {number}: {error} Nothing was imported.") from error
    return line
