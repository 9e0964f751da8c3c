"""A lock between processes: one writer for each user and backend.

It is a lock of the operating system (``flock`` through filelock), so it is free as soon as its process has ended, for
whatever reason. A file next to it names the process, for the message to whoever waits.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from memagent.agent.files import create_private, write_private
from memagent.agent.home import Home
from memagent.backends.errors import BusyError, StorageError

DEFAULT_WAIT_SECONDS = 10.0


class BackendLock:
    """The right to write to one backend folder.

    Args:
        folder: the backend's folder; created if missing.
        label: what is locked, for the message.
    """

    def __init__(self, folder: Path, label: str) -> None:
        create_private(folder)
        self._label = label
        self._holder = folder / "holder.json"
        self._lock = FileLock(folder / "lock", mode=0o600, thread_local=False)

    def acquire(self, wait_seconds: float = DEFAULT_WAIT_SECONDS) -> None:
        """Take the lock, and wait for it if another process has it. ``holder.json`` then names this process.

        Args:
            wait_seconds: how long to wait.

        Raises:
            BusyError: another process still has it; the message says which.
            StorageError: the lock file cannot be used.
        """
        try:
            self._lock.acquire(timeout=wait_seconds)
        except Timeout as error:
            raise BusyError(
                f"{self._label} is in use by {self.holder()}. Waited {wait_seconds:g} seconds. "
                "Close it there, or try again later."
            ) from error
        except OSError as error:
            raise StorageError(
                f"{self._label} cannot be locked: {error}. Mend the folder's rights."
            ) from error
        since = datetime.now(UTC).isoformat(timespec="seconds")
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
        holder = {"pid": os.getpid(), "command": command, "since": since}
        with suppress(OSError):  # only for the message to whoever waits
            write_private(self._holder, json.dumps(holder).encode())

    @property
    def is_locked(self) -> bool:
        """True if this object has the lock."""
        return bool(self._lock.is_locked)

    def release(self) -> None:
        """Release the lock; does nothing if it is not locked."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._holder.unlink(missing_ok=True)
            self._lock.release()

    def holder(self) -> str:
        """Describe the process that has the lock, for a message."""
        try:
            holder = json.loads(self._holder.read_text())
            return f"process {holder['pid']} ({holder['command']}) since {holder['since']}"
        except (OSError, ValueError, KeyError):
            return "another process"


def backend_lock(home: Home, user: str, backend: str) -> BackendLock:
    """Return the lock of one user's backend, not yet acquired. The backend's folder is made if it is missing."""
    return BackendLock(home.backend_folder(user, backend), f"The {backend} memory of user {user!r}")
