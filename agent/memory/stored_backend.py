"""A backend and its stored states: load the current one or begin with an empty backend, store a new one, remove them.

A state that cannot be used is rebuilt from the journal. Two states are refused instead: one that is costly to rebuild and
of another model or setting, and one that covers more turns than the journal, because then the journal has lost turns.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from memagent.agent.journal import Journal
from memagent.agent.memory.checkpoint import Checkpoint, CheckpointStore, ForeignStateError, Position
from memagent.agent.memory.state_files import remove_tree
from memagent.backends.errors import CheckpointError, MemagentError, StorageError
from memagent.backends.protocol import MemoryBackend, Resources

# A reader starts again if a writer has replaced the state in the meantime; after so many attempts it gives up.
_READER_ATTEMPTS = 5
_PROBE_BYTES = 2**20


@dataclass(frozen=True)
class StoredBackend:
    """A backend of a user, as a home stores it.

    Attributes:
        journal: the user's journal.
        store: the backend's stored states. Unless ``read_only``, whoever uses them has the backend's lock.
        place: the home that contains them; see ``Home.place``.
        make_backend: the backend's class.
        config: the backend's hyper-parameters.
        settings: the same as text, by field name.
        resources: what the backend shares with the agent.
        notify: called with a message if the backend is rebuilt.
        strict: raise CheckpointError instead of rebuilding a stored state.
        read_only: store nothing and change no stored state.
    """

    journal: Journal
    store: CheckpointStore
    place: str
    make_backend: type[MemoryBackend]
    config: Any
    settings: Mapping[str, str]
    resources: Resources
    notify: Callable[[str], None]
    strict: bool = False
    read_only: bool = False

    @property
    def name(self) -> str:
        """Name of the backend."""
        return self.make_backend.name

    def load(self) -> tuple[MemoryBackend, Position]:
        """Load the stored state. One that cannot be used is removed, unless read-only, and the backend begins empty.

        Raises:
            CheckpointError: see ``strict``; or the state of a costly backend is of another model or of other settings. Nothing
                was changed.
            JournalDamagedError: the state covers turns that the journal does not have.
            StorageError: the disk fails; the state is kept.
        """
        for remaining_attempts in reversed(range(_READER_ATTEMPTS if self.read_only else 1)):
            current = self.store.folder / "CURRENT"
            before = current.read_bytes() if remaining_attempts and current.exists() else b""
            try:
                return self._load_stored()
            except ForeignStateError as error:
                if self.make_backend.costly:
                    raise ForeignStateError(
                        f"The stored memory of {self.name} was made otherwise: {error}. Reading the journal again would "
                        "take long, so nothing was changed. Use the model and settings it was made with, or rebuild it for "
                        f"these (--model, --set as here): `memagent backends rebuild {self.name} "
                        f"--user {shlex.quote(self.journal.user)}`."
                    ) from error
                unusable: CheckpointError = error
            except CheckpointError as error:
                unusable = error
            self.empty_workspace()
            self._check_disk()
            if remaining_attempts and current.exists() and current.read_bytes() != before:
                continue
            break
        if self.strict:
            raise unusable
        turns = self.journal.count()
        consequence = (
            f"The journal's {turns} turns are read anew for this command; `memagent backends rebuild {self.name}` with the "
            "same options stores the result."
            if self.read_only
            else f"It is being rebuilt from the journal ({turns} turns)."
        )
        self.notify(f"The stored state of {self.name} is not usable: {unusable}. {consequence}")
        if not self.read_only:
            self.discard()
        return self.new()

    def new(self) -> tuple[MemoryBackend, Position]:
        """Return an empty backend. It need not follow the forgettings so far, as it has read none of the turns."""
        return self.make_backend(self.config, self.resources), Position(0, self.journal.last()[1])

    def save(self, backend: MemoryBackend, position: Position) -> None:
        """Store a backend's state as a new generation, and record it in the journal.

        After a crash, the old or the new state is current. The new one is recorded before it is current: otherwise another
        home that shares the journal would not know that this one contains a turn that is forgotten there.

        Args:
            backend: a consistent backend.
            position: the last turn and the last forgetting that it has read.

        Raises:
            StorageError: see ``CheckpointStore.write``; or the journal cannot be written, and the old state stays current.
        """
        extent = self.journal.extent(position.seq, position.forgetting)
        self.store.write(
            backend.save,
            user=self.journal.user,
            fingerprint=self.fingerprint(),
            extent=extent,
            settings=self.settings,
            costly=self.make_backend.costly,
            record=lambda digest: self.journal.note_checkpoint(self.name, self.place, extent, digest),
        )

    def discard(self) -> None:
        """Remove the stored state; see ``discard``."""
        discard(self.journal, self.store, self.name, self.place)

    def empty_workspace(self) -> None:
        """Remove the working files of a backend that is closed."""
        for entry in self.resources.workspace.iterdir():
            remove_tree(entry)

    def fingerprint(self) -> dict[str, str | int | float | bool]:
        """Return what the state depends on besides the turns. The backend may load its model."""
        return {"backend": self.name, **self.make_backend.fingerprint(self.config, self.resources)}

    # inside

    def _load_stored(self) -> tuple[MemoryBackend, Position]:
        """Load the stored state, or begin with an empty backend if there is none."""
        checkpoint = self.store.read()
        if checkpoint is None:
            return self.new()
        if checkpoint.user != self.journal.user:
            raise CheckpointError("it belongs to another user")
        # Checked first: a state that covers more than the journal is kept, whatever else is wrong with it.
        self.journal.confirm(checkpoint.extent, f"The stored memory of {self.name}")
        checkpoint.check_fingerprint(self.fingerprint())
        return self._read_state(checkpoint), checkpoint.position

    def _read_state(self, checkpoint: Checkpoint) -> MemoryBackend:
        """Check the files of a state and load them into a backend, which may load its model.

        Raises:
            CheckpointError: the files are damaged, or the backend cannot use them.
            StorageError: the disk is full or fails.
        """
        try:
            checkpoint.check_files()
            return self.make_backend.load(checkpoint.directory, self.config, self.resources)
        except (MemagentError, MemoryError):
            raise
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise CheckpointError(f"its content cannot be used ({error})") from error
        except OSError as error:
            raise StorageError(
                f"The stored memory of {self.name} cannot be read: {error}. Nothing was changed; free some space, "
                "or mend the disk or the folder's rights, and try again."
            ) from error
        except Exception as error:  # libraries raise errors of many kinds for damaged files
            raise CheckpointError(f"its content cannot be used ({type(error).__name__}: {error})") from error

    def _check_disk(self) -> None:
        """Make sure that a full disk is not the reason why a state cannot be used, before the state is discarded.

        Raises:
            OSError: nothing can be written.
        """
        probe = self.resources.workspace / "probe"
        with probe.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()


def discard(journal: Journal, store: CheckpointStore, backend: str, place: str) -> bool:
    """Remove a backend's stored state. The caller has the backend's lock.

    Args:
        journal: the user's journal.
        store: the backend's stored states.
        backend: name of the backend.
        place: the home that contains the states; see ``Home.place``.

    Returns:
        True if there was a state.

    Raises:
        JournalDamagedError: the state covers turns that the journal does not have; the journal must be examined first.
        StorageError: the state could not be removed completely.
    """
    try:
        checkpoint = store.read()
    except CheckpointError:
        checkpoint = None
    if checkpoint is not None and checkpoint.user == journal.user:
        journal.confirm(checkpoint.extent, f"The stored memory of {backend}")
    removed = store.discard()
    journal.drop_checkpoint(backend, place)
    return removed
