"""Moving a journal between machines as JSON lines, complete and exact; see ``journal.lines`` for what they hold.

Exporting what was imported into an empty journal gives the same lines again.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from memagent.agent.fields import json_text
from memagent.agent.journal import Journal, JournalReader
from memagent.agent.journal.chain import GENESIS, timestamp, turn_head
from memagent.agent.journal.lines import (
    FORMAT,
    ForgettingLine,
    Proof,
    SessionLine,
    Source,
    TurnLine,
    prove,
    read_lines,
)
from memagent.agent.journal.records import Forgetting, NewTurn, Tombstone
from memagent.backends.errors import InputError
from memagent.backends.records import Turn

__all__ = ["Exported", "Imported", "export", "load", "open_source", "prove"]

_BATCH = 5000


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        turns: how many.
        missing: turns that the journal should have and does not; see ``memagent doctor``.
    """

    turns: int
    missing: int


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


def export(journal: JournalReader, file: TextIO, *, session: str | None = None) -> Exported:
    """Write a journal as it is now, or one session of it, as JSON lines."""
    with journal.snapshot() as reader:
        _write(file, {"kind": "memagent", "format": FORMAT, "user": reader.user})
        for one in reader.sessions():
            if session in (None, one.name):
                _write(file, {"kind": "session", "name": one.name, "created_at": timestamp(one.created_at)})
        written = forgotten = missing = 0
        head = GENESIS
        chained: set[str] = set()
        for entry in reader.entries():
            if entry.turn is not None and session in (None, entry.turn.session):
                _write(file, _turn_fields(entry.turn, entry.salt))
                head = turn_head(head, entry.turn.seq, entry.turn.id, entry.leaf)
                written += 1
            elif entry.forgetting is not None and session is None:
                _write(file, _forgetting_fields(entry.forgetting, entry.leaf))
                head = turn_head(head, entry.forgetting.seq, entry.forgetting.turn_id, entry.leaf)
                chained.add(entry.forgetting.turn_id)
                forgotten += 1
            missing += entry.turn is None and entry.forgetting is None
        for gone in reader.forgettings() if session is None else ():
            if gone.turn_id not in chained:
                _write(file, _forgetting_fields(gone, None))
                forgotten += 1
        _write(file, {"kind": "end", "turns": written, "forgettings": forgotten, "head": head.hex()})
    return Exported(written, missing)


@contextmanager
def open_source(path: Path, folder: Path) -> Iterator[tuple[Source, int]]:
    """Open an export for reading it several times; also yields its size in bytes.

    Args:
        path: a file; or a pipe, which is copied into a nameless private file first; ``-`` is standard input.
        folder: where that file lies; it is gone however the process ends.

    Raises:
        InputError: it cannot be read.
    """
    name = "Standard input" if str(path) == "-" else str(path)
    with ExitStack() as stack:
        try:
            opened = os.fdopen(0, "rb", closefd=False) if str(path) == "-" else path.open("rb")
            file: BinaryIO = stack.enter_context(opened)
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not file.isatty()):
                    raise InputError(f"{name} is a device; expected a file, a pipe or standard input.")
                copy = stack.enter_context(tempfile.TemporaryFile(dir=folder))
                shutil.copyfileobj(file, copy)
                file = copy
            size = file.seek(0, os.SEEK_END)
        except OSError as error:
            raise InputError(f"{name} cannot be read: {error.strerror}.") from error
        yield Source(name, file), size


def load(journal: Journal, source: Source, advance: Callable[[int], None] = lambda size: None) -> Imported:
    """Add a proved export's turns to a journal, in batches, each committed.

    Turns keep their ids, so importing twice, or again after an interruption, adds nothing twice. Into
    an empty journal they keep their seqs too and memory is bounded; merging holds one number a turn.
    A turn forgotten here stays forgotten, and so do the replies in the file that saw it.
    """
    # Where each of the file's seqs is here; None while both are the same.
    moved: dict[int, int] | None = None if journal.last() == (0, 0) else {}
    gone_here: set[int] = set()
    added = present = 0
    to_forget: list[int] = []
    lines = read_lines(source, Proof())
    while batch := list(islice(lines, _BATCH)):
        journal.add_sessions(
            {line.name: line.created_at for _, line in batch if isinstance(line, SessionLine)}
        )
        entries = [line for _, line in batch if isinstance(line, TurnLine | ForgettingLine)]
        seen = journal.seen_ids([line.id for line in entries])
        here = {
            line.seq: seen[line.id] for line in entries if isinstance(line, TurnLine) and seen.get(line.id)
        }
        if moved is not None:
            moved.update(here)
        to_forget += [
            seen[line.id] for line in entries if isinstance(line, ForgettingLine) and seen.get(line.id)
        ]
        added += len(journal.extend(list(_new(entries, seen, gone_here)), moved))
        present += len(here)
        for raw, _ in batch:
            advance(len(raw))
    return Imported(added, present, len(gone_here), tuple(to_forget))


def _new(
    lines: Iterable[TurnLine | ForgettingLine], seen: dict[str, int], gone_here: set[int]
) -> Iterator[NewTurn | Tombstone]:
    """Yield what is not here yet; note in ``gone_here`` the file's seqs of turns that stay forgotten."""
    for line in lines:
        if isinstance(line, ForgettingLine):
            if line.id not in seen:
                leaf = bytes.fromhex(line.leaf) if line.leaf is not None else None
                yield Tombstone(line.seq, line.id, line.forgotten_at, leaf)
        elif not seen.get(line.id):
            saw_gone = line.role == "assistant" and not gone_here.isdisjoint(line.in_view)
            if line.id in seen or saw_gone:
                gone_here.add(line.seq)
            else:
                yield _new_turn(line)


def _write(file: TextIO, fields: dict[str, Any]) -> None:
    file.write(json_text(fields) + "\n")


def _turn_fields(turn: Turn, salt: bytes | None) -> dict[str, Any]:
    return {
        "kind": "turn",
        "seq": turn.seq,
        "id": turn.id,
        "session": turn.session,
        "role": turn.role,
        "speaker": turn.speaker,
        "text": turn.text,
        "created_at": timestamp(turn.created_at),
        "in_view": turn.in_view,
        "derived": turn.derived,
        "salt": (salt or b"").hex(),
    }


def _forgetting_fields(gone: Forgetting, leaf: bytes | None) -> dict[str, Any]:
    fields = {
        "kind": "forgetting",
        "seq": gone.seq,
        "id": gone.turn_id,
        "forgotten_at": timestamp(gone.forgotten_at),
    }
    return fields if leaf is None else {**fields, "leaf": leaf.hex()}


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
        salt=bytes.fromhex(line.salt) if line.salt is not None else None,
    )
