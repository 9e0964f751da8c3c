"""One writer per user and backend, across processes.

The lock is the operating system's (``flock`` through filelock), so it is gone the moment its holder
is, however the holder ended. Who holds it is written beside it, for the message to who waits.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from memagent.agent.files import make_private, write_private
from memagent.agent.home import Home
from memagent.backends.errors import BusyError, StorageError

DEFAULT_WAIT_SECONDS = 10.0


class BackendLock:
    """The right to use one backend folder.

    Args:
        folder: the backend's folder; created if missing.
        what: what is locked, for the message.
    """

    def __init__(self, folder: Path, what: str) -> None:
        make_private(folder)
        self._what = what
        self._holder = folder / "holder.json"
        self._lock = FileLock(folder / "lock", mode=0o600, thread_local=False)

    def acquire(self, wait_seconds: float = DEFAULT_WAIT_SECONDS) -> None:
        """Take the lock, waiting a bounded time.

        Raises:
            BusyError: another process kept it; the message says which.
        """
        try:
            self._lock.acquire(timeout=wait_seconds)
        except Timeout as error:
            raise BusyError(
                f"{self._what} is in use by {self.holder()}. Waited {wait_seconds:g} seconds. "
                "Close it there, or try again later."
            ) from error
        except OSError as error:
            raise StorageError(
                f"{self._what} cannot be locked: {error}. Mend the folder's rights."
            ) from error
        since = datetime.now(UTC).isoformat(timespec="seconds")
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
        said = {"pid": os.getpid(), "command": command, "since": since}
        with suppress(OSError):  # only a courtesy to who waits
            write_private(self._holder, json.dumps(said).encode())

    @property
    def is_held(self) -> bool:
        return bool(self._lock.is_locked)

    def release(self) -> None:
        """Give the lock back; harmless if it is not held."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._holder.unlink(missing_ok=True)
            self._lock.release()

    def holder(self) -> str:
        """Describe the process that holds the lock."""
        try:
            said = json.loads(self._holder.read_text())
            return f"process {said['pid']} ({said['command']}) since {said['since']}"
        except (OSError, ValueError, KeyError):
            return "another process"


def backend_lock(home: Home, user: str, backend: str) -> BackendLock:
    """Return the lock of one user's backend, not yet acquired."""
    return BackendLock(home.backend_folder(user, backend), f"The {backend} memory of user {user!r}")
