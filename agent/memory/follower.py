"""A backend that follows a journal: loaded from its checkpoint, given the newer turns, and stored again.

The journal alone decides what is true. Turns that a state lacks are read from the journal, and a state that cannot be
used is rebuilt. Two states are refused instead: one that is costly to rebuild and of another model or setting, and one
that covers more turns than the journal, because then the journal has lost turns.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from memagent.agent.journal import Journal, Unfinished
from memagent.agent.memory.checkpoint import Checkpoint, CheckpointStore, ForeignStateError, Position
from memagent.agent.memory.state_files import remove_tree
from memagent.agent.memory.workspace import remove_dead_readers
from memagent.backends.errors import CheckpointError, MemagentError, StorageError
from memagent.backends.protocol import MemoryBackend, Resources
from memagent.backends.records import ConsolidationReport, Turn, Use, WriteResult

_BATCH = 256
# A checkpoint is written once reading its turns again would take this long.
_REPLAY_SECONDS_AT_CLOSE = 5.0
_REPLAY_SECONDS_IN_USE = 30.0
_REPLAY_TURNS = 64
# A reader starts again if a writer has replaced the state in the meantime; after so many attempts it gives up.
_READER_ATTEMPTS = 5
_PROBE_BYTES = 2**20


class Follower:
    """A backend over a journal, loaded as it was stored. It reads new turns when ``catch_up`` is called.

    Args:
        journal: the user's journal.
        store: the backend's stored states. Whoever builds a follower that writes has the backend's lock.
        place: the home that contains them; see ``Home.place``.
        make_backend: the backend's class.
        config: the backend's hyper-parameters.
        settings: the same as text, by field name.
        resources: what the backend shares with the agent.
        notify: called with a message if the backend is rebuilt.
        strict: raise CheckpointError instead of rebuilding a stored state.
        read_only: store nothing and change no stored state.

    Attributes:
        name: name of the backend.
        backend: the backend; replaced after a rebuild or a failure.
        position: the last turn and the last forgetting that the backend has read.

    Raises:
        JournalDamagedError: the stored state covers turns that the journal does not have.
        CheckpointError: see ``strict``; or the state of a costly backend is of another model or of other settings.
    """

    def __init__(
        self,
        journal: Journal,
        store: CheckpointStore,
        place: str,
        make_backend: type[MemoryBackend],
        config: Any,
        settings: Mapping[str, str],
        resources: Resources,
        *,
        notify: Callable[[str], None],
        strict: bool = False,
        read_only: bool = False,
    ) -> None:
        self.journal = journal
        self.name = make_backend.name
        self.resources = resources
        self.notify = notify
        self.place = place
        self._store = store
        self._class = make_backend
        self._config = config
        self._settings = dict(settings)
        self._strict = strict
        self._read_only = read_only
        self._replay_seconds = 0.0
        self._consistent = True
        self._open = True
        self._saved = Position()
        self._cleared_forgetting = -1
        self.backend, self.position = self._load()

    # following

    def catch_up(self, forgotten: Sequence[Turn] = ()) -> dict[int, WriteResult]:
        """Read the journal to its end: forgettings, then turns.

        Stores the state after a forgetting and after long reading, unless read-only.

        Args:
            forgotten: content of turns that were just forgotten, as far as it is available.

        Returns:
            What the backend did with the turns, by seq; of many turns, those of the last batch only.
        """
        self._recover()
        self.follow_forgettings(forgotten)
        last_seq, _ = self.journal.last()
        results: dict[int, WriteResult] = {}
        if last_seq <= self.position.seq:
            return results
        for batch in self._pending(last_seq):
            began = time.monotonic()
            with self._modifying():
                results = {result.seq: result for result in self._read_into_backend(batch)}
                self.position = replace(self.position, seq=batch[-1].seq)
            self._replay_seconds += time.monotonic() - began
            if self._replay_seconds > _REPLAY_SECONDS_IN_USE:
                self.checkpoint()
        self.position = replace(self.position, seq=last_seq)
        return results

    def follow_forgettings(self, forgotten: Sequence[Turn] = ()) -> None:
        """Remove what the journal has forgotten, and store the state, so that no stored state contains it.

        Args:
            forgotten: as in ``catch_up``.
        """
        _, last = self.journal.last()
        if last > self.position.forgetting:
            seqs = [
                forgetting.seq
                for forgetting in self.journal.forgettings(self.position.forgetting)
                if 0 < forgetting.seq <= self.position.seq
            ]
            followed = set(seqs)
            contents = [turn for turn in forgotten if turn.seq in followed]
            contents += self.journal.get(self.backend.needed_to_forget(followed))
            with self._modifying():
                removed = not seqs or self.backend.forget(seqs, contents)
            if not removed:
                self.notify(f"{self.name} cannot forget single turns; it is being rebuilt without them.")
                self.rebuild()
                return
            # The position changes last, so that a forgetting that fails is repeated.
            self.position = replace(self.position, forgetting=last)
            self.checkpoint()
        self._report_cleared()

    def rebuild(self) -> None:
        """Remove the stored state, read the whole journal again, and store the new state. The journal keeps all turns.

        If read-only, the stored state stays, and the new one is not stored.
        """
        if not self._read_only:
            discard(self.journal, self._store, self.name, self.place)
        self._consistent = False  # until there is a new backend
        self._close_backend()
        self._begin_anew()
        self.catch_up()
        self.checkpoint()
        self._report_cleared()

    def consolidate(self) -> ConsolidationReport:
        """Consolidate the backend, store its state unless read-only, and return what changed."""
        self._recover()
        with self._modifying():
            report = self.backend.consolidate()
        self.checkpoint()
        return report

    # storing

    def checkpoint(self) -> None:
        """Store the backend's state as a new generation, and record it in the journal; nothing if read-only.

        After a crash, the old or the new state is current. The new one is recorded before it is current: otherwise another
        home that shares the journal would not know that this one contains a turn that is forgotten there.

        Raises:
            StorageError: see ``CheckpointStore.write``; or the journal cannot be written, and the old state stays current.
        """
        if self._read_only:
            return
        self._recover()  # a backend that failed halfway is never stored
        extent = self.journal.extent(self.position.seq, self.position.forgetting)
        self._store.write(
            self.backend.save,
            user=self.journal.user,
            fingerprint=self._fingerprint(),
            extent=extent,
            settings=self._settings,
            costly=self._class.costly,
            record=lambda digest: self.journal.note_checkpoint(self.name, self.place, extent, digest),
        )
        self._saved, self._replay_seconds = self.position, 0.0

    def close(self) -> None:
        """Close the backend; store its state first if reading its turns again would take long."""
        try:
            if self._consistent:
                _, forgetting = self.journal.last()
                behind = self.position.seq - self._saved.seq
                if forgetting > self.position.forgetting:
                    self.follow_forgettings()
                elif self._replay_seconds > _REPLAY_SECONDS_AT_CLOSE or behind >= _REPLAY_TURNS:
                    self.checkpoint()
        finally:
            self._close_backend()

    def abandon(self) -> None:
        """Close the backend and store nothing."""
        self._close_backend()

    # inside

    def _read_into_backend(self, batch: Sequence[Turn]) -> list[WriteResult]:
        """Give turns to the backend.

        If it follows use, a turn's use of memory is noted after all turns before it were remembered, and before itself is.
        """
        results: list[WriteResult] = []
        run: list[Turn] = []
        for turn in batch:
            if self._class.follows_use and turn.recalled:
                results += self.backend.remember(run)
                self.backend.note_use([Use(turn.seq, turn.recalled, turn.created_at)])
                run = []
            if not turn.derived:
                run.append(turn)
        return [*results, *self.backend.remember(run)]

    def _pending(self, last_seq: int) -> Iterator[list[Turn]]:
        """Yield the turns that the backend has not read, in batches; with a progress bar if there are many."""
        turns = iter(self.journal.turns(after=self.position.seq))
        batches = iter(lambda: list(islice(turns, _BATCH)), [])
        missing = last_seq - self.position.seq
        if missing <= _BATCH:
            return batches
        total = -(-missing // _BATCH)
        return iter(
            self.resources.progress(batches, total=total, label=f"Reading the journal into {self.name}")
        )

    @contextmanager
    def _modifying(self) -> Iterator[None]:
        """Mark the backend as inconsistent while it is modified; after a failure it stays so: see ``_recover``."""
        self._consistent = False
        yield
        self._consistent = True

    def _recover(self) -> None:
        """Load the stored state again after a failure; ``catch_up`` then reads the later turns again."""
        if not self._consistent:
            self._close_backend()
            self._empty_workspace()
            self._saved = Position()
            self.backend, self.position = self._load()
            self._consistent, self._open = True, True

    def _close_backend(self) -> None:
        """Close the backend unless it is closed already."""
        if self._open:
            self._open = False
            self.backend.close()

    def _report_cleared(self) -> None:
        """Record in the journal that no file of this memory contains forgotten turns, as soon as none does."""
        if self._read_only or self._cleared_forgetting >= self.position.forgetting:
            return
        due = Unfinished(self.name, self.place, self.position.forgetting)
        unfinished = {(entry.backend, entry.place) for entry in self.journal.unfinished()}
        if (due.backend, due.place) in unfinished:
            self._store.remove_others()
            readers = remove_dead_readers(self._store.folder)
            if any(reader.forgetting < due.forgetting for reader in readers):
                return  # its working files may contain a copy; checked again at the next call
            self.journal.finished(due)
        self._cleared_forgetting = self.position.forgetting

    def _load(self) -> tuple[MemoryBackend, Position]:
        """Load the stored state. One that cannot be used is removed, unless read-only, and the backend begins empty.

        Raises:
            CheckpointError: see the class; nothing was changed.
            JournalDamagedError: the state covers turns that the journal does not have.
            StorageError: the disk fails; the state is kept.
        """
        for remaining_attempts in reversed(range(_READER_ATTEMPTS if self._read_only else 1)):
            current = self._store.folder / "CURRENT"
            before = current.read_bytes() if remaining_attempts and current.exists() else b""
            try:
                return self._load_stored()
            except ForeignStateError as error:
                if self._class.costly:
                    raise ForeignStateError(
                        f"The stored memory of {self.name} was made otherwise: {error}. Reading the journal again would "
                        "take long, so nothing was changed. Use the model and settings it was made with, or rebuild it for "
                        f"these (--model, --set as here): `memagent backends rebuild {self.name} "
                        f"--user {shlex.quote(self.journal.user)}`."
                    ) from error
                unusable: CheckpointError = error
            except CheckpointError as error:
                unusable = error
            self._empty_workspace()
            self._check_disk()
            if remaining_attempts and current.exists() and current.read_bytes() != before:
                continue
            break
        if self._strict:
            raise unusable
        turns = self.journal.count()
        consequence = (
            f"The journal's {turns} turns are read anew for this command; `memagent backends rebuild {self.name}` with the "
            "same options stores the result."
            if self._read_only
            else f"It is being rebuilt from the journal ({turns} turns)."
        )
        self.notify(f"The stored state of {self.name} is not usable: {unusable}. {consequence}")
        if not self._read_only:
            discard(self.journal, self._store, self.name, self.place)
        return self._new_backend()

    def _load_stored(self) -> tuple[MemoryBackend, Position]:
        """Load the stored state, or begin with an empty backend if there is none."""
        checkpoint = self._store.read()
        if checkpoint is None:
            return self._new_backend()
        if checkpoint.user != self.journal.user:
            raise CheckpointError("it belongs to another user")
        # Checked first: a state that covers more than the journal is kept, whatever else is wrong with it.
        self._confirm(checkpoint)
        checkpoint.check_fingerprint(self._fingerprint())
        backend = self._read_state(checkpoint)
        self._saved = checkpoint.position
        return backend, checkpoint.position

    def _read_state(self, checkpoint: Checkpoint) -> MemoryBackend:
        """Check the files of a state and load them into a backend, which may load its model.

        Raises:
            CheckpointError: the files are damaged, or the backend cannot use them.
            StorageError: the disk is full or fails.
        """
        try:
            checkpoint.check_files()
            return self._class.load(checkpoint.directory, self._config, self.resources)
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

    def _confirm(self, checkpoint: Checkpoint) -> None:
        """Raise JournalDamagedError unless the journal continues what a state covers."""
        self.journal.confirm(checkpoint.extent, f"The stored memory of {self.name}")

    def _new_backend(self) -> tuple[MemoryBackend, Position]:
        """Return an empty backend. It need not follow the forgettings so far, as it has read none of the turns."""
        return self._class(self._config, self.resources), Position(0, self.journal.last()[1])

    def _begin_anew(self) -> None:
        """Empty the workspace and replace the backend by an empty one. The stored state stays."""
        self._empty_workspace()
        self.backend, self.position = self._new_backend()
        self._saved, self._consistent, self._open, self._cleared_forgetting = Position(), True, True, -1

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

    def _empty_workspace(self) -> None:
        for entry in self.resources.workspace.iterdir():
            remove_tree(entry)

    def _fingerprint(self) -> dict[str, str | int | float | bool]:
        """Return what the state depends on besides the turns. The backend may load its model."""
        return {"backend": self.name, **self._class.fingerprint(self._config, self.resources)}


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
