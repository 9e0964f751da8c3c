"""Folders for the working files of open memories, and their removal after a process was killed.

    <backend folder>/scratch/             of the process that has the backend's lock
    <backend folder>/readers/<id>/        of a process that only reads; <id>.lock is locked as long as it runs

Working files contain the same text as a stored state, so they are removed when the memory is closed. Those of a killed
process are removed by the next process that writes.
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

from memagent.agent.files import create_private
from memagent.agent.memory.state_files import remove_tree
from memagent.backends.errors import StorageError


@dataclass(frozen=True, slots=True)
class ActiveReader:
    """A running process that has a memory open for reading.

    Attributes:
        pid: its process id; 0: unknown.
        forgetting: number of the last forgetting when it opened the memory. Its files may contain turns that were
            forgotten later.
    """

    pid: int
    forgetting: int


class Scratch:
    """The working folder of the process that has a backend's lock.

    Args:
        folder: the backend's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "scratch"

    def make(self) -> Path:
        """Create the folder and return it. Files of an earlier process are removed."""
        remove_tree(self.path)
        return create_private(self.path)

    def exists(self) -> bool:
        """Tell whether the folder is there."""
        return self.path.exists()

    def drop(self) -> None:
        """Remove the folder.

        Raises:
            StorageError: a file in it could not be removed.
        """
        remove_tree(self.path)


class ReaderFolder:
    """The working folder of a process that only reads.

    Args:
        folder: the backend's folder. If it is not writable, the working folder is in the system's temporary folder.
        forgetting: number of the journal's last forgetting.
    """

    def __init__(self, folder: Path, forgetting: int) -> None:
        self._lock: FileLock | None = None
        try:
            self.path = self._create(folder, forgetting)
        except (OSError, StorageError):
            self.path = Path(tempfile.mkdtemp(prefix="memagent-"))

    def drop(self) -> None:
        """Remove the folder. A second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def _create(self, folder: Path, forgetting: int) -> Path:
        """Create a folder of a new name in ``readers/``, and hold the lock of the file beside it."""
        readers = create_private(folder / "readers")
        while True:
            path = readers / uuid4().hex
            lock_file = path.with_suffix(".lock")
            lock = FileLock(lock_file, mode=0o600, thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            with suppress(OSError):
                lock_file.write_text(json.dumps({"pid": os.getpid(), "forgetting": forgetting}))
            # ``remove_dead_readers`` of another process may remove the lock file before it is locked.
            if lock_file.exists():
                self._lock = lock
                return create_private(path)
            lock.release()


def remove_dead_readers(folder: Path) -> list[ActiveReader]:
    """Remove the working folders of readers that were killed.

    Args:
        folder: the backend's folder.

    Returns:
        The readers that still run.

    Raises:
        StorageError: a file could not be removed.
    """
    readers = folder / "readers"
    active: list[ActiveReader] = []
    for file in sorted(readers.glob("*.lock")):
        lock = FileLock(file, mode=0o600, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            active.append(_reader(file))
            continue
        remove_tree(file.with_suffix(""))
        file.unlink(missing_ok=True)
        lock.release()
    for path in readers.glob("*"):
        if path.is_dir() and not path.with_suffix(".lock").exists():
            remove_tree(path)
    return active


def _reader(lock_file: Path) -> ActiveReader:
    """Return the reader that a lock file names; one with zeros if the file cannot be read."""
    try:
        fields = json.loads(lock_file.read_text())
        return ActiveReader(int(fields["pid"]), int(fields["forgetting"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ActiveReader(0, 0)
