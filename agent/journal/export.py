"""Moving a journal between machines as JSON lines, complete and exact; see ``journal.lines`` for what they hold.

Exporting what was imported into an empty journal gives the same lines again.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from memagent.agent.fields import json_text
from memagent.agent.journal import Journal, JournalReader
from memagent.agent.journal.chain import GENESIS, timestamp, turn_head
from memagent.agent.journal.item_index import outdated_seqs
from memagent.agent.journal.lines import (
    FORMAT,
    ForgettingLine,
    Line,
    SessionLine,
    TurnLine,
)
from memagent.agent.journal.proof import Proof, Source, prove, read_lines
from memagent.agent.journal.records import Forgetting, NewTurn, Tombstone
from memagent.backends.errors import InputError
from memagent.backends.records import Turn
from memagent.backends.shared.turns import turn_fields

__all__ = ["ExportResult", "ImportResult", "export", "load", "open_source", "prove"]

_BATCH_LINES = 5000
_BATCH_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        turns: how many.
        missing: turns that the journal should have and does not; see ``memagent doctor``.
    """

    turns: int
    missing: int


@dataclass(frozen=True, slots=True)
class ImportResult:
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


def export(journal: JournalReader, file: TextIO, *, session: str | None = None) -> ExportResult:
    """Write a journal as it is now, or one session of it, as JSON lines.

    Outdated items are left out, and so are replies that may repeat them, as if they were forgotten already.
    """
    with journal.snapshot() as reader:
        _write(file, {"kind": "memagent", "format": FORMAT, "user": reader.user})
        for session_ in reader.sessions():
            if session in (None, session_.name):
                created_at = timestamp(session_.created_at)
                _write(file, {"kind": "session", "name": session_.name, "created_at": created_at})
        turn_count = forgetting_count = missing = 0
        head = GENESIS
        chained_ids: set[str] = set()
        pinned_seqs = {turn.seq for turn in reader.pinned()}
        outdated = outdated_seqs(reader)
        omitted_seqs = outdated.union(reader.replies_that_saw(outdated))
        for entry in reader.entries():
            if entry.turn is not None and entry.turn.seq in omitted_seqs:
                continue
            if entry.turn is not None and session in (None, entry.turn.session):
                is_pinned = entry.turn.seq in pinned_seqs
                _write(file, _turn_fields(reader, entry.turn, entry.salt, pinned=is_pinned))
                head = turn_head(head, entry.turn.seq, entry.turn.id, entry.leaf)
                turn_count += 1
            elif entry.forgetting is not None and session is None:
                _write(file, _forgetting_fields(entry.forgetting, entry.leaf))
                head = turn_head(head, entry.forgetting.seq, entry.forgetting.turn_id, entry.leaf)
                chained_ids.add(entry.forgetting.turn_id)
                forgetting_count += 1
            missing += entry.turn is None and entry.forgetting is None
        for forgetting in reader.forgettings() if session is None else ():
            if forgetting.turn_id not in chained_ids:
                _write(file, _forgetting_fields(forgetting, None))
                forgetting_count += 1
        end = {"kind": "end", "turns": turn_count, "forgettings": forgetting_count, "head": head.hex()}
        _write(file, end)
    return ExportResult(turn_count, missing)


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


def load(
    journal: Journal, source: Source, advance: Callable[[int], None] = lambda size: None
) -> ImportResult:
    """Add a proved export's turns to a journal, in batches, each committed.

    Turns keep their ids, so importing twice, or again after an interruption, adds nothing twice. Into
    an empty journal they keep their seqs too and memory is bounded; merging holds one number a turn.
    A turn forgotten here stays forgotten, and so do the replies in the file that saw it.
    """
    # The seq here by the seq in the file; None while both are the same.
    new_seqs: dict[int, int] | None = None if journal.last() == (0, 0) else {}
    forgotten_seqs: set[int] = set()
    added = present = 0
    to_forget: list[int] = []
    for batch in _batches(read_lines(source, Proof())):
        journal.add_sessions(
            {line.name: line.created_at for _, line in batch if isinstance(line, SessionLine)}
        )
        entries = [line for _, line in batch if isinstance(line, TurnLine | ForgettingLine)]
        seqs_by_id = journal.seen_ids([line.id for line in entries])
        present_seqs = {
            line.seq: seqs_by_id[line.id]
            for line in entries
            if isinstance(line, TurnLine) and seqs_by_id.get(line.id)
        }
        if new_seqs is not None:
            new_seqs.update(present_seqs)
        to_forget += [
            seqs_by_id[line.id]
            for line in entries
            if isinstance(line, ForgettingLine) and seqs_by_id.get(line.id)
        ]
        added += len(journal.extend(list(_new_entries(entries, seqs_by_id, forgotten_seqs)), new_seqs))
        present += len(present_seqs)
        for raw, _ in batch:
            advance(len(raw))
    return ImportResult(added, present, len(forgotten_seqs), tuple(to_forget))


def _batches(lines: Iterable[tuple[bytes, Line]]) -> Iterator[list[tuple[bytes, Line]]]:
    """Split lines into batches that fit into memory whatever they hold."""
    batch: list[tuple[bytes, Line]] = []
    size = 0
    for raw, line in lines:
        batch.append((raw, line))
        size += len(raw)
        if len(batch) >= _BATCH_LINES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _new_entries(
    lines: Iterable[TurnLine | ForgettingLine], seqs_by_id: dict[str, int], forgotten_seqs: set[int]
) -> Iterator[NewTurn | Tombstone]:
    """Yield what is not here yet.

    Args:
        lines: of the export, in order.
        seqs_by_id: the turns that were ever here; seq 0: forgotten.
        forgotten_seqs: gets the file's seqs of turns that stay forgotten.
    """
    for line in lines:
        if isinstance(line, ForgettingLine):
            if line.id not in seqs_by_id:
                leaf = bytes.fromhex(line.leaf) if line.leaf is not None else None
                yield Tombstone(line.seq, line.id, line.forgotten_at, leaf)
        elif not seqs_by_id.get(line.id):
            saw_forgotten = line.role == "assistant" and not forgotten_seqs.isdisjoint(line.in_view)
            if line.id in seqs_by_id or saw_forgotten:
                forgotten_seqs.add(line.seq)
            else:
                yield line.new_turn()


def _write(file: TextIO, fields: dict[str, Any]) -> None:
    file.write(json_text(fields) + "\n")


def _turn_fields(reader: JournalReader, turn: Turn, salt: bytes | None, *, pinned: bool) -> dict[str, Any]:
    """Return the line of a turn, with the bytes of its attachments, which are read from the journal and verified."""
    return {
        "kind": "turn",
        **turn_fields(turn),
        "created_at": timestamp(turn.created_at),
        "attachments": [
            asdict(attachment) | {"content": b64encode(reader.attachment(turn.seq, position)).decode()}
            for position, attachment in enumerate(turn.attachments)
        ],
        **({"pinned": True} if pinned else {}),
        "salt": (salt or b"").hex(),
    }


def _forgetting_fields(forgetting: Forgetting, leaf: bytes | None) -> dict[str, Any]:
    fields = {
        "kind": "forgetting",
        "seq": forgetting.seq,
        "id": forgetting.turn_id,
        "forgotten_at": timestamp(forgetting.forgotten_at),
    }
    return fields if leaf is None else {**fields, "leaf": leaf.hex()}
