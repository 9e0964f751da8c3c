"""Places for the working files of open memories, and what remains of them after a kill.

    <backend folder>/scratch/             of the process that holds the backend's lock
    <backend folder>/readers/<id>/        of a process that only reads; <id>.lock beside it is locked while it lives

Working files hold what a stored state holds, so they are removed with the memory they belong to. What a killed
process left is removed by the next one that writes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from memagent.agent.files import make_private
from memagent.agent.memory.checkpoint import remove_tree
from memagent.backends.errors import StorageError


@dataclass(frozen=True, slots=True)
class LivingReader:
    """A process that has a memory open for reading.

    Attributes:
        pid: its process id.
        forgetting: number of the last forgetting when it opened the memory: it may hold what was forgotten later.
    """

    pid: int
    forgetting: int


class Scratch:
    """The working files of whoever holds a backend's lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "scratch"

    def make(self) -> Path:
        """Return an empty folder; what an earlier process left there is removed."""
        remove_tree(self.path)
        return make_private(self.path)

    def exists(self) -> bool:
        return self.path.exists()

    def drop(self) -> None:
        """Remove it.

        Raises:
            StorageError: something in it could not be removed.
        """
        remove_tree(self.path)


class ReaderPlace:
    """The working files of one process that only reads.

    Args:
        folder: the backend's folder. Where it cannot be written, the place is in the system's temporary folder.
        forgetting: number of the journal's last forgetting.
    """

    def __init__(self, folder: Path, forgetting: int) -> None:
        self._lock: FileLock | None = None
        try:
            self.path = self._beside(folder, forgetting)
        except (OSError, StorageError):
            self.path = Path(tempfile.mkdtemp(prefix="memagent-"))

    def drop(self) -> None:
        """Remove the files. Dropping again does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def _beside(self, folder: Path, forgetting: int) -> Path:
        readers = make_private(folder / "readers")
        while True:
            place = readers / uuid4().hex
            lock = FileLock(place.with_suffix(".lock"), mode=0o600, thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            with suppress(OSError):
                place.with_suffix(".lock").write_text(
                    json.dumps({"pid": os.getpid(), "forgetting": forgetting})
                )
            # Whoever cleans up may have taken the lock file away between its making and its locking.
            if place.with_suffix(".lock").exists():
                self._lock = lock
                return make_private(place)
            lock.release()


def remove_dead_readers(folder: Path) -> list[LivingReader]:
    """Remove what killed readers of a backend left, and return those that still live.

    Raises:
        StorageError: something could not be removed.
    """
    readers = folder / "readers"
    living: list[LivingReader] = []
    for file in sorted(readers.glob("*.lock")):
        lock = FileLock(file, mode=0o600, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            living.append(_reader(file))
            continue
        remove_tree(file.with_suffix(""))
        file.unlink(missing_ok=True)
        lock.release()
    for place in readers.glob("*"):
        if place.is_dir() and not place.with_suffix(".lock").exists():
            remove_tree(place)
    return living


def _reader(lock_file: Path) -> LivingReader:
    try:
        fields = json.loads(lock_file.read_text())
        return LivingReader(int(fields["pid"]), int(fields["forgetting"]))
    except (OSError, ValueError, KeyError, TypeError):
        return LivingReader(0, 0)
