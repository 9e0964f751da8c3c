"""A backend that follows a journal: loaded from its checkpoint, fed what the journal has beyond it, stored again.

The journal alone decides what is true, so whatever a state lacks is read from there, and a state that is not
usable is made anew. What is costly to make is refused instead of thrown away.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from memagent.agent.checkpoint import CheckpointStore, ForeignStateError, Position
from memagent.agent.journal import Journal
from memagent.backends.errors import CheckpointError
from memagent.backends.protocol import ConsolidationReport, MemoryBackend, Resources, Turn

_BATCH = 256
# A checkpoint is worth writing once reading its turns again would take this long.
_REPLAY_SECONDS_AT_CLOSE = 5.0
_REPLAY_SECONDS_IN_USE = 30.0
_REPLAY_TURNS = 64


class Follower:
    """A backend over a journal, loaded as it was stored. It follows no further before ``catch_up``.

    Args:
        store: where its states are kept; whoever builds a follower holds the backend's lock.
        config, settings: the backend's hyper-parameters, and as they were typed.
        notify: is told what has to be rebuilt.
        strict: raise CheckpointError where the stored state would have to be rebuilt.

    Attributes:
        backend: the backend; another one after a rebuild or a failure.
        position: how far it has followed the journal.
    """

    def __init__(
        self,
        journal: Journal,
        store: CheckpointStore,
        make_backend: type[MemoryBackend],
        config: Any,
        settings: Mapping[str, str],
        resources: Resources,
        *,
        notify: Callable[[str], None],
        strict: bool,
    ) -> None:
        self.journal = journal
        self.name = make_backend.name
        self.resources = resources
        self.notify = notify
        self._store = store
        self._class = make_backend
        self._config = config
        self._settings = dict(settings)
        self._strict = strict
        self._replay_seconds = 0.0
        self._sound = True
        self._saved = Position()
        self.backend, self.position = self._load()

    def catch_up(self) -> int:
        """Follow the journal to its end and return how many turns were read."""
        self._recover()
        self.follow_forgettings()
        last_seq, _ = self.journal.last()
        if last_seq <= self.position.seq:
            return 0
        read = 0
        for batch in self._pending(last_seq):
            began = time.monotonic()
            with self._changing():
                self.backend.remember([turn for turn in batch if not turn.derived])
                self.position = replace(self.position, seq=batch[-1].seq)
            self._replay_seconds += time.monotonic() - began
            read += len(batch)
            if self._replay_seconds > _REPLAY_SECONDS_IN_USE:
                self.checkpoint()
        self.position = replace(self.position, seq=last_seq)
        return read

    def follow_forgettings(self) -> None:
        """Remove what the journal has forgotten, and store the state, so that no older one holds it."""
        _, last = self.journal.last()
        if last <= self.position.forgetting:
            return
        gone = [
            one.seq
            for one in self.journal.forgettings(self.position.forgetting)
            if 0 < one.seq <= self.position.seq
        ]
        with self._changing():
            forgot = not gone or self.backend.forget(gone)
        if not forgot:
            self.notify(f"{self.name} cannot forget single turns; it is being rebuilt without them.")
            self.rebuild()
            return
        # Only now: a failed forgetting is tried again.
        self.position = replace(self.position, forgetting=last)
        self.checkpoint()

    def rebuild(self) -> int:
        """Throw the backend's state away and read the whole journal again; return the turns read."""
        self._start_over()
        read = self.catch_up()
        self.checkpoint()
        return read

    def consolidate(self) -> ConsolidationReport:
        """Let the backend tidy up, and store the result."""
        self._recover()
        with self._changing():
            report = self.backend.consolidate()
        self.checkpoint()
        return report

    def checkpoint(self) -> None:
        """Store the backend's state; a crash before the end leaves the old one."""
        self._recover()  # what failed halfway is never stored
        made = self._store.write(
            self.backend.save,
            journal_id=self.journal.id,
            user=self.journal.user,
            fingerprint=self._fingerprint(),
            position=self.position,
            last_id=self.journal.id_at(self.position.seq, self.position.forgetting),
            settings=self._settings,
        )
        self._saved, self._replay_seconds = self.position, 0.0
        self.journal.note_checkpoint(
            self.name, socket.gethostname(), made.position.seq, made.position.forgetting, made.manifest_sha256
        )

    def checkpoint_if_due(self) -> None:
        """Store the state if reading its turns again would take noticeable time."""
        behind = self.position.seq - self._saved.seq
        worth = self._replay_seconds > _REPLAY_SECONDS_AT_CLOSE or behind >= _REPLAY_TURNS
        if worth and self._sound:
            self.checkpoint()

    def close(self) -> None:
        """Close the backend and remove its working files; nothing is stored."""
        self.backend.close()
        self._store.drop_scratch()

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
            self.backend.close()
            self._empty_scratch()
            self._saved = Position()
            self.backend, self.position = self._load()
            self._sound = True

    def _load(self) -> tuple[MemoryBackend, Position]:
        try:
            found = self._store.verify(self.journal.id, self.journal.user, self._fingerprint())
            if found is not None:
                if found.last_id != self.journal.id_at(found.position.seq, found.position.forgetting):
                    raise CheckpointError(
                        "the journal is not the one it was made from: it was restored or replaced"
                    )
                backend = self._class.load(found.directory, self._config, self.resources)
                self._saved = found.position
                return backend, found.position
        except CheckpointError as error:
            if isinstance(error, ForeignStateError) and self._class.costly:
                raise ForeignStateError(
                    f"The stored memory of {self.name} was made otherwise: {error}. Reading the journal again would "
                    "take long, so nothing was changed. Use the model and settings it was made with, or let "
                    f"`memagent backends rebuild {self.name}` make it anew with these (--model, --set as here)."
                ) from error
            if self._strict:
                raise
            self.notify(
                f"The stored state of {self.name} is not usable: {error}. "
                f"It is being rebuilt from the journal ({self.journal.count()} turns); nothing is lost."
            )
            self._store.discard()
            self._empty_scratch()
        return self._class(self._config, self.resources), Position(0, self.journal.last()[1])

    def _start_over(self) -> None:
        self.backend.close()
        self._store.discard()
        self._empty_scratch()
        self.backend, self._sound = self._class(self._config, self.resources), True
        self.position = self._saved = Position(0, self.journal.last()[1])

    def _empty_scratch(self) -> None:
        for entry in self.resources.workspace.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _fingerprint(self) -> dict[str, str | int | float | bool]:
        return {"backend": self.name, **self._class.fingerprint(self._config, self.resources)}
