"""The high-water mark: how far a journal has been, kept in a file beside it.

A database that was emptied, shortened or replaced by an older copy looks sound by itself; the mark tells. It is
written after each commit, so a mark behind its journal is normal (a crash in between), while a mark ahead of it
proves that turns were lost. It is never lowered. A whole home that is put back to an older state, mark included,
cannot be noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock

from memagent.agent.files import write_private
from memagent.agent.journal.records import Extent
from memagent.backends.errors import JournalDamagedError

# Two lines of fixed length, written in turn: a write that is cut off leaves the other one whole. Writing in place
# costs 30 microseconds; replacing the file by a rename costs milliseconds on ext4, which then flushes it to disk.
_LINE = 512


class UnreadableMarkError(Exception):
    """The mark's file is there but neither of its lines is what was written."""


class HighWaterMark:
    """The mark of one user's journal.

    Args:
        file: where it is kept, outside of the database; a ``.lock`` and, for a moment, a ``.new`` file stand beside it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = FileLock(file.with_name(file.name + ".lock"), mode=0o600)

    def exists(self) -> bool:
        """Say whether the mark has a file, whatever the file holds."""
        return self.file.exists()

    def read(self) -> Extent | None:
        """Return how far the journal has been, or None if that was never noted.

        Raises:
            UnreadableMarkError: the file is damaged. It then proves nothing, and the next commit writes it anew.
        """
        lines = self._read_lines()
        if not lines:
            return None
        extent = _furthest(lines)
        if extent is None:
            raise UnreadableMarkError(f"{self.file} is not what was written")
        return extent

    def advance(self, extent: Extent) -> None:
        """Note how far the journal reaches now, unless the mark is further already.

        A mark that cannot be written stays behind, which is harmless: the turn itself is committed.
        """
        with suppress(OSError, UnreadableMarkError), self._lock:
            lines = self._read_lines()
            last_extent = _furthest(lines)
            if last_extent is None:
                self._write_both(extent)
                return
            new_extent = last_extent.furthest(extent)
            if new_extent != last_extent:
                # The line that holds the last mark stays as it is.
                line_number = 1 if _parse_line(lines[0]) == last_extent else 0
                descriptor = os.open(self.file, os.O_WRONLY)
                try:
                    os.pwrite(descriptor, _line(new_extent), line_number * _LINE)
                finally:
                    os.close(descriptor)

    def replace(self, extent: Extent) -> None:
        """Set the mark, even to less than it was. Only a loss that the user accepts needs this.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            self._write_both(extent)

    def _write_both(self, extent: Extent) -> None:
        """Replace the file by one whose two lines both hold this mark."""
        fresh = self.file.with_name(self.file.name + ".new")
        write_private(fresh, 2 * _line(extent))
        os.replace(fresh, self.file)

    def _read_lines(self) -> list[bytes]:
        """Return the file's two lines, whatever they hold; none if there is no file."""
        try:
            content = self.file.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UnreadableMarkError(f"{self.file} cannot be read: {error.strerror}") from error
        return [content[:_LINE], content[_LINE : 2 * _LINE]]


def check_not_emptied(file: Path, user: str, mark_extent: Extent | None) -> None:
    """Refuse to begin a new journal where there was one.

    Args:
        file: of the journal.
        user: whose journal.
        mark_extent: how far the mark says that the journal has been; None: the mark cannot be read.

    Raises:
        JournalDamagedError: the file is missing or empty.
    """
    missing = not file.exists()
    if missing or file.stat().st_size == 0:
        extent = f"with turns up to {mark_extent.seq:,} " if mark_extent is not None else ""
        raise JournalDamagedError(
            f"The journal {file} is {'missing' if missing else 'empty'}, but its high-water mark says that there was one "
            f"{extent}here. Nothing was changed.",
            user,
        )


def _line(extent: Extent) -> bytes:
    mark = asdict(extent)
    return json.dumps({"mark": mark, "sha256": _digest(mark)}).encode().ljust(_LINE - 1) + b"\n"


def _parse_line(line: bytes) -> Extent | None:
    """Return the mark that a line holds; None if the line is not what was written."""
    try:
        content = json.loads(line)
        return Extent(**content["mark"]) if content["sha256"] == _digest(content["mark"]) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _furthest(lines: list[bytes]) -> Extent | None:
    """Return the furthest mark of the lines that can be read; None if none can."""
    extents = [extent for extent in map(_parse_line, lines) if extent is not None]
    return extents[0].furthest(extents[-1]) if extents else None


def _digest(mark: object) -> str:
    return hashlib.sha256(json.dumps(mark, sort_keys=True).encode()).hexdigest()
