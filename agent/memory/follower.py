"""A backend that follows a journal: loaded from its checkpoint, fed what the journal has beyond it, stored again.

The journal alone decides what is true, so whatever a state lacks is read from there, and a state that is not
usable is made anew. What is costly to make is refused instead of thrown away, and so is a state that knows more
than the journal: then it is the journal that has lost something.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

from memagent.agent.journal import Journal, Unfinished
from memagent.agent.memory.checkpoint import (
    Checkpoint,
    CheckpointStore,
    ForeignStateError,
    Position,
    remove_tree,
)
from memagent.agent.memory.workspace import remove_dead_readers
from memagent.backends.errors import CheckpointError, MemagentError, StorageError
from memagent.backends.protocol import MemoryBackend, Resources
from memagent.backends.records import ConsolidationReport, Turn, Use, WriteResult

_BATCH = 256
# A checkpoint is worth writing once reading its turns again would take this long.
_REPLAY_SECONDS_AT_CLOSE = 5.0
_REPLAY_SECONDS_IN_USE = 30.0
_REPLAY_TURNS = 64
# A reader starts over when a writer has replaced the state it was about to read.
_READER_TRIES = 5
_PROBE_BYTES = 2**20


class Follower:
    """A backend over a journal, loaded as it was stored. It follows no further before ``catch_up``.

    Args:
        store: where its states are kept; whoever builds a follower that writes holds the backend's lock.
        place: the home that keeps them; see ``Home.place``.
        config, settings: the backend's hyper-parameters, and as they were typed.
        notify: is told what has to be rebuilt.
        strict: raise CheckpointError where the stored state would have to be rebuilt.
        read_only: store nothing and leave every stored state as it is.

    Attributes:
        backend: the backend; another one after a rebuild or a failure.
        position: how far it has followed the journal.

    Raises:
        JournalDamagedError: the stored state covers what the journal does not have.
        CheckpointError: see ``strict``; or the state of a costly backend was made by another model.
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
        self._sound = True
        self._open = True
        self._saved = Position()
        self._settled = -1
        self.backend, self.position = self._load()

    # following

    def catch_up(self, forgotten: Sequence[Turn] = ()) -> dict[int, WriteResult]:
        """Follow the journal to its end.

        Args:
            forgotten: turns that were just forgotten, whose content is still at hand.

        Returns:
            What became of the turns that were read, by seq; of a long tail, of its last batch only.
        """
        self._recover()
        self.follow_forgettings(forgotten)
        last_seq, _ = self.journal.last()
        results: dict[int, WriteResult] = {}
        if last_seq <= self.position.seq:
            return results
        for batch in self._pending(last_seq):
            began = time.monotonic()
            with self._changing():
                results = {result.seq: result for result in self._hand_over(batch)}
                self.position = replace(self.position, seq=batch[-1].seq)
            self._replay_seconds += time.monotonic() - began
            if self._replay_seconds > _REPLAY_SECONDS_IN_USE:
                self.checkpoint()
        self.position = replace(self.position, seq=last_seq)
        return results

    def follow_forgettings(self, forgotten: Sequence[Turn] = ()) -> None:
        """Remove what the journal has forgotten, and store the state, so that no older one holds it.

        Args:
            forgotten: as for ``catch_up``.
        """
        _, last = self.journal.last()
        if last > self.position.forgetting:
            seqs = [
                forgetting.seq
                for forgetting in self.journal.forgettings(self.position.forgetting)
                if 0 < forgetting.seq <= self.position.seq
            ]
            at_hand = [turn for turn in forgotten if turn.seq in set(seqs)]
            with self._changing():
                done = not seqs or self.backend.forget(seqs, at_hand)
            if not done:
                self.notify(f"{self.name} cannot forget single turns; it is being rebuilt without them.")
                self.rebuild()
                return
            # Only now: a failed forgetting is tried again.
            self.position = replace(self.position, forgetting=last)
            self.checkpoint()
        self._settle()

    def rebuild(self) -> None:
        """Throw the backend's state away and read the whole journal again."""
        if not self._read_only:
            discard(self.journal, self._store, self.name, self.place)
        self._sound = False  # until there is another backend
        self._close_backend()
        self._begin_anew()
        self.catch_up()
        self.checkpoint()
        self._settle()

    def consolidate(self) -> ConsolidationReport:
        """Let the backend tidy up, and store the result."""
        self._recover()
        with self._changing():
            report = self.backend.consolidate()
        self.checkpoint()
        return report

    # storing

    def checkpoint(self) -> None:
        """Store the backend's state; a crash before the end leaves the old one."""
        if self._read_only:
            return
        self._recover()  # what failed halfway is never stored
        extent = self.journal.extent(self.position.seq, self.position.forgetting)
        made = self._store.write(
            self.backend.save,
            user=self.journal.user,
            fingerprint=self._fingerprint(),
            extent=extent,
            settings=self._settings,
            costly=self._class.costly,
        )
        self._saved, self._replay_seconds = self.position, 0.0
        self.journal.note_checkpoint(self.name, self.place, extent, made.manifest_sha256)

    def close(self) -> None:
        """Close the backend; store its state first if reading its turns again would take noticeable time."""
        try:
            if self._sound:
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

    def _hand_over(self, batch: Sequence[Turn]) -> list[WriteResult]:
        """Hand turns to the backend, and where it wants to know, in between, what use replies made of it."""
        if not self._class.follows_use:
            return list(self.backend.remember([turn for turn in batch if not turn.derived]))
        results: list[WriteResult] = []
        for used_memory, group in groupby(batch, key=lambda turn: bool(turn.recalled)):
            turns = list(group)
            if used_memory:
                self.backend.note_use([Use(turn.seq, turn.recalled, turn.created_at) for turn in turns])
            results += self.backend.remember([turn for turn in turns if not turn.derived])
        return results

    def _pending(self, last_seq: int) -> Iterator[list[Turn]]:
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
    def _changing(self) -> Iterator[None]:
        """Change the backend. One that failed halfway is not trusted any more: see ``_recover``."""
        self._sound = False
        yield
        self._sound = True

    def _recover(self) -> None:
        """Go back to the stored state after a failure: what came after it is read again."""
        if not self._sound:
            self._close_backend()
            self._empty_workspace()
            self._saved = Position()
            self.backend, self.position = self._load()
            self._sound, self._open = True, True

    def _close_backend(self) -> None:
        """Close the backend, once."""
        if self._open:
            self._open = False
            self.backend.close()

    def _settle(self) -> None:
        """Note that no file of this memory holds forgotten turns any more, once that is so."""
        if self._read_only or self._settled >= self.position.forgetting:
            return
        due = Unfinished(self.name, self.place, self.position.forgetting)
        if any((one.backend, one.place) == (due.backend, due.place) for one in self.journal.unfinished()):
            self._store.remove_others()
            living = remove_dead_readers(self._store.folder)
            if any(reader.forgetting < due.forgetting for reader in living):
                return  # a copy of what was forgotten may be in its files; asked again at the next call
            self.journal.finished(due)
        self._settled = self.position.forgetting

    def _load(self) -> tuple[MemoryBackend, Position]:
        for tries_left in reversed(range(_READER_TRIES if self._read_only else 1)):
            current = self._store.folder / "CURRENT"
            before = current.read_bytes() if tries_left and current.exists() else b""
            try:
                return self._load_stored()
            except ForeignStateError as error:
                if self._class.costly:
                    raise ForeignStateError(
                        f"The stored memory of {self.name} was made otherwise: {error}. Reading the journal again would "
                        "take long, so nothing was changed. Use the model and settings it was made with, or let "
                        f"`memagent backends rebuild {self.name} --user {shlex.quote(self.journal.user)}` make it anew with "
                        "these (--model, --set as here)."
                    ) from error
                unusable: CheckpointError = error
            except CheckpointError as error:
                unusable = error
            self._empty_workspace()
            self._check_disk()
            if tries_left and current.exists() and current.read_bytes() != before:
                continue
            break
        if self._strict:
            raise unusable
        self.notify(
            f"The stored state of {self.name} is not usable: {unusable}. "
            f"It is being rebuilt from the journal ({self.journal.count()} turns)."
        )
        if not self._read_only:
            discard(self.journal, self._store, self.name, self.place)
        return self._new_backend()

    def _load_stored(self) -> tuple[MemoryBackend, Position]:
        """Load the stored state, or begin anew where there is none."""
        found = self._store.read()
        if found is None:
            return self._new_backend()
        if found.user != self.journal.user:
            raise CheckpointError("it belongs to another user")
        # First of all: a state that covers more than the journal must survive whatever else is wrong with it.
        self._confirm(found)
        found.check_fingerprint(self._fingerprint())
        backend = self._read_state(found)
        self._saved = found.position
        return backend, found.position

    def _read_state(self, found: Checkpoint) -> MemoryBackend:
        try:
            found.check_files()
            return self._class.load(found.directory, self._config, self.resources)
        except (MemagentError, MemoryError):
            raise
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise CheckpointError(f"its content cannot be used ({error})") from error
        except OSError as error:
            raise StorageError(
                f"The stored memory of {self.name} cannot be read: {error}. Nothing was changed; free some space, "
                "or mend the disk or the folder's rights, and try again."
            ) from error
        except Exception as error:  # libraries meet damaged files with errors of many kinds
            raise CheckpointError(f"its content cannot be used ({type(error).__name__}: {error})") from error

    def _confirm(self, found: Checkpoint) -> None:
        self.journal.confirm(found.extent, f"The stored memory of {self.name}")

    def _new_backend(self) -> tuple[MemoryBackend, Position]:
        return self._class(self._config, self.resources), Position(0, self.journal.last()[1])

    def _begin_anew(self) -> None:
        self._empty_workspace()
        self.backend, self.position = self._new_backend()
        self._saved, self._sound, self._open, self._settled = Position(), True, True, -1

    def _check_disk(self) -> None:
        """Make sure that it is not for want of room that a state could not be used, before it is thrown away.

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
        return {"backend": self.name, **self._class.fingerprint(self._config, self.resources)}


def discard(journal: Journal, store: CheckpointStore, backend: str, place: str) -> bool:
    """Remove a backend's stored state; True if there was one. Who calls it holds the backend's lock.

    Raises:
        JournalDamagedError: the state covers more than the journal, so it is the journal that must be looked at first.
        StorageError: it could not be removed whole.
    """
    try:
        found = store.read()
    except CheckpointError:
        found = None
    if found is not None and found.user == journal.user:
        journal.confirm(found.extent, f"The stored memory of {backend}")
    removed = store.discard()
    journal.drop_checkpoint(backend, place)
    return removed
