"""Open a user's journal, and one backend over it: its lock, working folder, shared resources and stored state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from memagent.agent.files import create_private
from memagent.agent.home import Home
from memagent.agent.journal import Journal
from memagent.agent.memory.checkpoint import CheckpointStore
from memagent.agent.memory.follower import Follower
from memagent.agent.memory.lock import BackendLock, backend_lock
from memagent.agent.memory.stored_backend import StoredBackend
from memagent.agent.memory.workspace import ReaderFolder, Scratch
from memagent.backends.errors import StorageError
from memagent.backends.protocol import Embedder, LocalModel, Progress, Resources
from memagent.backends.registry import Choice

Notify = Callable[[str], None]
"""Takes a message for the user."""


def open_journal(home: Home, user: str, *, read_only: bool = False, trusting: bool = False) -> Journal:
    """Open a user's journal: the shared database if the home names one, else the user's own file.

    Unless ``read_only``, the user's folder is made if it is missing; for the journal itself see ``Journal``.

    Args:
        home: the folders of the installation.
        user: name of the user.
        read_only: as in ``Journal``.
        trusting: as in ``Journal``.

    Raises:
        MemagentError: see ``Journal``.
    """
    if not read_only:
        create_private(home.user_folder(user))
    target = home.journal_url or home.journal_file(user)
    return Journal(target, user, mark=home.mark_file(user), read_only=read_only, trusting=trusting)


@dataclass(frozen=True)
class Opening:
    """The arguments of ``Memory.open`` that concern every backend of the memory; the fields are those arguments."""

    home: Home
    make_embedder: Callable[[], Embedder]
    make_model: Callable[[], LocalModel] | None
    seed: int
    lock: BackendLock | None
    wait_seconds: float
    strict: bool
    fresh: bool
    read_only: bool
    notify: Notify
    progress: Progress

    def follower(self, journal: Journal, choice: Choice, stack: ExitStack) -> Follower:
        """Load a backend as it was stored.

        Takes its lock, unless that is given or the memory is read-only. With ``fresh``, its stored state is removed first. The
        backend may load its models.

        Args:
            journal: the user's journal.
            choice: the backend and its settings.
            stack: gets the callbacks that release the lock, remove the working folder and close the backend.

        Raises:
            MemagentError: see ``Memory.open``.
        """
        folder = self.home.backend_folder(journal.user, choice.name)
        workspace = (
            self._reading(journal, folder, stack) if self.read_only else self._writing(journal, choice, stack)
        )
        resources = Resources(
            workspace=workspace,
            make_embedder=self.make_embedder,
            seed=self.seed,
            scope=hashlib.sha256(f"{journal.id} {journal.user}".encode()).hexdigest()[:24],
            progress=self.progress,
            cache=self.home.models / "derived",
        )
        if self.make_model is not None:
            resources.make_model = self.make_model
        stored = StoredBackend(
            journal,
            CheckpointStore(folder),
            "" if self.read_only else self.home.place(),
            choice.backend,
            choice.config,
            choice.settings,
            resources,
            self.notify,
            strict=self.strict,
            read_only=self.read_only,
        )
        if self.fresh:
            stored.fingerprint()  # a missing model fails here, before a state is discarded
            stored.discard()
        follower = Follower(stored)
        stack.callback(follower.abandon)
        return follower

    def _reading(self, journal: Journal, folder: Path, stack: ExitStack) -> Path:
        """Create a reader's working folder, which ``stack`` removes, and return it. No lock is taken."""
        reader = ReaderFolder(folder, journal.last()[1])
        stack.callback(reader.drop)
        return reader.path

    def _writing(self, journal: Journal, choice: Choice, stack: ExitStack) -> Path:
        """Take the backend's lock unless it is given, empty the working folder and return it; ``stack`` undoes both."""
        lock = self.lock
        if lock is None:
            lock = backend_lock(self.home, journal.user, choice.name)
            lock.acquire(self.wait_seconds)
            stack.callback(lock.release)
        scratch = Scratch(self.home.backend_folder(journal.user, choice.name))
        stack.callback(scratch.drop)
        return scratch.make()


@contextmanager
def disk_errors(backend: str) -> Iterator[None]:
    """Raise StorageError instead of the disk's OSError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The files of the {backend} memory cannot be read or written: {error}. The journal has files of its own; the "
            "memory reads the missing turns from it when it is next used. Free some space, or mend the disk or the rights."
        ) from error
