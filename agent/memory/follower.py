"""A backend that follows a journal: loaded from its stored state, given the newer turns, and stored again.

The journal alone decides what is true: the turns that a state lacks are read from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

from memagent.agent.journal import Unfinished
from memagent.agent.memory.checkpoint import Position
from memagent.agent.memory.prefix_scope import prefix_scope
from memagent.agent.memory.stored_backend import StoredBackend
from memagent.agent.memory.workspace import remove_dead_readers
from memagent.agent.models.prefix_cache import drop_prefixes
from memagent.backends.protocol import MemoryBackend
from memagent.backends.records import ConsolidationReport, Turn, Use, WriteResult

_BATCH = 256
_COSTLY_BATCH = 16
"""At half a second for a turn, progress is shown every 8 seconds."""
# A checkpoint is written once reading its turns again would take this long.
_REPLAY_SECONDS_AT_CLOSE = 5.0
_REPLAY_SECONDS_IN_USE = 30.0
_REPLAY_TURNS = 64


class Follower:
    """A backend over a journal, loaded as it was stored. It reads new turns when ``catch_up`` is called.

    Args:
        stored: the backend with its stored states. Whoever builds a follower that writes has the backend's lock.

    Attributes:
        name: name of the backend.
        backend: the backend; replaced after a rebuild or a failure.
        position: the last turn and the last forgetting that the backend has read.

    Raises:
        JournalDamagedError: the stored state covers turns that the journal does not have.
        CheckpointError: see ``StoredBackend.load``.
    """

    def __init__(self, stored: StoredBackend) -> None:
        self.journal = stored.journal
        self.name = stored.name
        self.resources = stored.resources
        self.notify = stored.notify
        self._stored = stored
        self._replay_seconds = 0.0
        self._consistent = True
        self._open = True
        self._cleared_forgetting = -1
        self.backend, self.position = stored.load()
        self._saved_seq = self.position.seq

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
            drop_prefixes(prefix_scope(self.journal))
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
        if not self._stored.read_only:
            self._stored.discard()
        self._consistent = False  # until there is a new backend
        self._replace_backend(self._stored.new)
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

        Raises:
            StorageError: see ``StoredBackend.save``.
        """
        if self._stored.read_only:
            return
        self._recover()  # a backend that failed halfway is never stored
        self._stored.save(self.backend, self.position)
        self._saved_seq, self._replay_seconds = self.position.seq, 0.0

    def close(self) -> None:
        """Close the backend; store its state first if reading its turns again would take long."""
        try:
            if self._consistent:
                _, forgetting = self.journal.last()
                behind = self.position.seq - self._saved_seq
                if forgetting > self.position.forgetting:
                    self.follow_forgettings()
                elif self._replay_seconds > _REPLAY_SECONDS_AT_CLOSE or behind >= _REPLAY_TURNS:
                    self.checkpoint()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the backend unless it is closed already, and store nothing."""
        if self._open:
            self._open = False
            self.backend.close()

    # inside

    def _read_into_backend(self, batch: Sequence[Turn]) -> list[WriteResult]:
        """Give turns to the backend.

        If it follows use, a turn's use of memory is noted after all turns before it were remembered, and before itself is.
        """
        results: list[WriteResult] = []
        run: list[Turn] = []
        for turn in batch:
            if self.backend.follows_use and turn.recalled:
                results += self.backend.remember(run)
                self.backend.note_use([Use(turn.seq, turn.recalled, turn.created_at)])
                run = []
            if not turn.derived:
                run.append(turn)
        return [*results, *self.backend.remember(run)]

    def _pending(self, last_seq: int) -> Iterator[list[Turn]]:
        """Yield the turns that the backend has not read, in batches; with a progress bar if there are many."""
        size = _COSTLY_BATCH if self.backend.costly else _BATCH
        turns = iter(self.journal.turns(after=self.position.seq))
        batches = iter(lambda: list(islice(turns, size)), [])
        missing = last_seq - self.position.seq
        if missing <= size:
            return batches
        total = -(-missing // size)
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
            self._replace_backend(self._stored.load)

    def _replace_backend(self, make: Callable[[], tuple[MemoryBackend, Position]]) -> None:
        """Close the backend, empty the workspace, and begin with the backend that ``make`` returns."""
        self.abandon()
        self._stored.empty_workspace()
        self.backend, self.position = make()
        self._saved_seq, self._cleared_forgetting = self.position.seq, -1
        self._consistent, self._open = True, True

    def _report_cleared(self) -> None:
        """Record in the journal that no file of this memory contains forgotten turns, as soon as none does."""
        if self._stored.read_only or self._cleared_forgetting >= self.position.forgetting:
            return
        due = Unfinished(self.name, self._stored.place, self.position.forgetting)
        unfinished = {(entry.backend, entry.place) for entry in self.journal.unfinished()}
        if (due.backend, due.place) in unfinished:
            self._stored.store.remove_others()
            readers = remove_dead_readers(self._stored.store.folder)
            if any(reader.forgetting < due.forgetting for reader in readers):
                return  # its working files may contain a copy; checked again at the next call
            self.journal.finished(due)
        self._cleared_forgetting = self.position.forgetting
