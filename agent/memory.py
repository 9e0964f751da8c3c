"""One user's journal with one backend over it: what the conversation and the command line hold.

    with Memory.open(home, "ana", "rag") as memory:
        memory.remember("monday", "user", "My dog is called Biscuit.")
        memory.recall("What is my dog called?")

The journal is written first and alone decides what is true. The backend follows it: on opening, and
before every recall, it takes in whatever turns and forgettings it has not seen, whoever wrote them.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import Any, Self

from memagent.agent.checkpoint import CheckpointStore, ForeignStateError, Position
from memagent.agent.home import Home
from memagent.agent.journal import Journal
from memagent.agent.lock import DEFAULT_WAIT_SECONDS, BackendLock
from memagent.agent.models.embedding import load_embedder
from memagent.backends import registry
from memagent.backends.errors import CheckpointError, SettingError
from memagent.backends.protocol import (
    Attachment,
    BackendStats,
    ConsolidationReport,
    LocalModel,
    MemoryBackend,
    ModelMemory,
    Progress,
    Recollection,
    Resources,
    Turn,
    silent,
)

_BATCH = 256
# A checkpoint is worth writing once reading its turns again would take this long.
_REPLAY_SECONDS_AT_CLOSE = 5.0
_REPLAY_SECONDS_IN_USE = 30.0
_REPLAY_TURNS = 64

Notify = Callable[[str], None]


def open_journal(home: Home, user: str) -> Journal:
    """Open a user's journal: the shared database if the home names one, else the user's own file."""
    return Journal(home.journal_url or home.journal_file(user), user)


class Memory:
    """A journal and a backend that follows it. Build it with ``open``."""

    def __init__(
        self,
        home: Home,
        journal: Journal,
        lock: BackendLock,
        make_backend: type[MemoryBackend],
        config: Any,
        resources: Resources,
        notify: Notify,
        strict: bool,
        settings: Mapping[str, str],
    ) -> None:
        self.home = home
        self.journal = journal
        self.name = make_backend.name
        self._lock = lock
        self._store = CheckpointStore(home.backend_folder(journal.user, make_backend.name))
        self._class = make_backend
        self._config = config
        self._resources = resources
        self._notify = notify
        self._strict = strict
        self._settings = dict(settings)
        self._replay_seconds = 0.0
        self._closed = False
        self._sound = True
        self._saved = Position()
        self._backend, self._position = self._load()

    @classmethod
    def open(
        cls,
        home: Home,
        user: str,
        backend: str,
        settings: Mapping[str, str] | None = None,
        *,
        make_embedder: Callable[[], Any] | None = None,
        make_model: Callable[[], LocalModel] | None = None,
        seed: int = 0,
        lock: BackendLock | None = None,
        wait_seconds: float = DEFAULT_WAIT_SECONDS,
        strict: bool = False,
        fresh: bool = False,
        follow: bool = True,
        notify: Notify = lambda message: None,
        progress: Progress = silent,
    ) -> Memory:
        """Open a user's memory: load the backend's checkpoint and read the journal's tail into it.

        A checkpoint that is missing, damaged or made by something else is rebuilt from the journal,
        and ``notify`` is told so.

        Args:
            backend: a name that ``registry.names()`` lists.
            settings: the backend's hyper-parameters as text, by field name.
            make_embedder, make_model: build the shared models on first use.
            lock: an already acquired lock of this backend, which passes to the memory.
            wait_seconds: how long to wait for another process that holds this memory.
            strict: raise CheckpointError where the stored state would have to be rebuilt.
            fresh: throw the stored state away first, and read the whole journal again.
            follow: read the journal's tail now; else when the memory is first used.

        Raises:
            CheckpointError: the state of a costly backend was made by another model or with other settings.
            NotFoundError, SettingError: the backend or a setting does not exist or does not fit.
            BusyError: another process holds the memory.
            StorageError: the home folder or the journal cannot be used.
        """
        make_backend = registry.get(backend)
        config = registry.configure(make_backend, settings or {})
        journal = open_journal(home, user)
        try:
            if lock is None:
                lock = backend_lock(home, user, backend)
                lock.acquire(wait_seconds)
            resources = Resources(
                workspace=CheckpointStore(home.backend_folder(user, backend)).fresh_scratch(),
                make_embedder=make_embedder or (lambda: load_embedder(home.models, notify=notify)),
                seed=seed,
                scope=hashlib.sha256(f"{journal.id} {user}".encode()).hexdigest()[:24],
                progress=progress,
                cache=home.models / "derived",
            )
            if make_model is not None:
                resources.make_model = make_model
            if fresh:
                make_backend.fingerprint(config, resources)  # models that cannot be had cost no state
                CheckpointStore(home.backend_folder(user, backend)).discard()
            memory = cls(home, journal, lock, make_backend, config, resources, notify, strict, settings or {})
        except BaseException:
            if lock is not None and lock.is_held:
                CheckpointStore(home.backend_folder(user, backend)).drop_scratch()
                lock.release()
            journal.close()
            raise
        try:
            if follow:
                memory.catch_up()
        except BaseException:
            memory._let_go()
            raise
        return memory

    def beside(self, backend: str, settings: Mapping[str, str], lock: BackendLock) -> Memory:
        """Open another backend of this user as it was stored, with the same models; it has not followed the journal yet.

        Raises:
            CheckpointError: its state is damaged, or was made by another model.
            NotFoundError, SettingError: the backend or a setting does not exist any more.
        """
        return Memory.open(
            self.home,
            self.user,
            backend,
            settings,
            make_embedder=self._resources.make_embedder,
            make_model=self._resources.make_model,
            seed=self._resources.seed,
            lock=lock,
            strict=True,
            follow=False,
            notify=self._notify,
            progress=self._resources.progress,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def user(self) -> str:
        return self.journal.user

    @property
    def position(self) -> Position:
        """How far the backend has followed the journal."""
        return self._position

    def remember(self, session: str, role: str, text: str, **fields: Any) -> Turn:
        """Add a turn: committed to the journal, then handed to the backend.

        Args:
            fields: ``speaker``, ``created_at``, ``in_view``, ``derived``, as in ``Turn``.
        """
        turn = self.journal.append(session, role, text, **fields)
        self.catch_up()
        return turn

    def recall(self, query: str, *, limit: int = 5) -> list[Recollection]:
        """Return what the backend believes relevant to ``query``, best first, at most ``limit`` items."""
        self.catch_up()
        return self._backend.recall(query, limit=limit) if query.strip() else []

    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> AbstractContextManager[Attachment]:
        """Open the backend's model channel for one generation, as far as the backend has followed the journal.

        It does not follow the journal first: what is being answered stands there already, and would come to mind.

        Raises:
            SettingError: the backend has none.
        """
        if not isinstance(self._backend, ModelMemory):
            raise SettingError(f"The backend {self.name} has no model channel; use --channel text.")
        return self._backend.attached(model, query, exclude=exclude)

    @property
    def has_model_channel(self) -> bool:
        return isinstance(self._backend, ModelMemory)

    def catch_up(self) -> int:
        """Follow the journal to its end and return how many turns were read."""
        self._recover()
        self.follow_forgettings()
        last_seq, _ = self.journal.last()
        if last_seq <= self._position.seq:
            return 0
        read = 0
        for batch in self._pending(last_seq):
            began = time.monotonic()
            with self._changing():
                self._backend.remember([turn for turn in batch if not turn.derived])
                self._position = replace(self._position, seq=batch[-1].seq)
            self._replay_seconds += time.monotonic() - began
            read += len(batch)
            if self._replay_seconds > _REPLAY_SECONDS_IN_USE:
                self.checkpoint()
        self._position = replace(self._position, seq=last_seq)
        return read

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
            report = self._backend.consolidate()
        self.checkpoint()
        return report

    def stats(self) -> BackendStats:
        return self._backend.stats()

    def checkpoint(self) -> None:
        """Store the backend's state; a crash before the end leaves the old one."""
        made = self._store.write(
            self._backend.save,
            journal_id=self.journal.id,
            user=self.user,
            fingerprint=self._fingerprint(),
            position=self._position,
            last_id=self.journal.id_at(self._position.seq, self._position.forgetting),
            settings=self._settings,
        )
        self._saved, self._replay_seconds = self._position, 0.0
        self.journal.note_checkpoint(
            self.name, socket.gethostname(), made.position.seq, made.position.forgetting, made.manifest_sha256
        )

    def close(self) -> None:
        """Store the state if reading its turns again would take noticeable time, and let go of the lock.

        Closing again does nothing.
        """
        if self._closed:
            return
        self._closed = True
        try:
            behind = self._position.seq - self._saved.seq
            worth = self._replay_seconds > _REPLAY_SECONDS_AT_CLOSE or behind >= _REPLAY_TURNS
            if worth and self._sound:
                self.checkpoint()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._closed = True
        self._backend.close()
        self._store.drop_scratch()
        self._lock.release()
        self.journal.close()

    def _fingerprint(self) -> dict[str, str | int | float | bool]:
        return {"backend": self.name, **self._class.fingerprint(self._config, self._resources)}

    def _load(self) -> tuple[MemoryBackend, Position]:
        try:
            found = self._store.verify(self.journal.id, self.user, self._fingerprint())
            if found is not None:
                if found.last_id != self.journal.id_at(found.position.seq, found.position.forgetting):
                    raise CheckpointError(
                        "the journal is not the one it was made from: it was restored or replaced"
                    )
                backend = self._class.load(found.directory, self._config, self._resources)
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
            self._notify(
                f"The stored state of {self.name} is not usable: {error}. "
                f"It is being rebuilt from the journal ({self.journal.count()} turns); nothing is lost."
            )
            self._store.discard()
            self._empty_scratch()
        return self._class(self._config, self._resources), Position(0, self.journal.last()[1])

    def _start_over(self) -> None:
        self._backend.close()
        self._store.discard()
        self._empty_scratch()
        self._backend, self._sound = self._class(self._config, self._resources), True
        self._position = self._saved = Position(0, self.journal.last()[1])

    def _empty_scratch(self) -> None:
        for entry in self._resources.workspace.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change the backend. One that failed halfway is not trusted any more: see ``_recover``."""
        self._sound = False
        yield
        self._sound = True

    def _recover(self) -> None:
        """Go back to the stored state after a failure: what came after it is read again."""
        if not self._sound:
            self._backend.close()
            self._empty_scratch()
            self._backend, self._position = self._load()
            self._sound = True

    def follow_forgettings(self) -> None:
        """Remove what the journal has forgotten, and store the state, so that no older one holds it."""
        _, last = self.journal.last()
        if last <= self._position.forgetting:
            return
        gone = [
            one.seq
            for one in self.journal.forgettings(self._position.forgetting)
            if 0 < one.seq <= self._position.seq
        ]
        with self._changing():
            forgot = not gone or self._backend.forget(gone)
        if not forgot:
            self._notify(f"{self.name} cannot forget single turns; it is being rebuilt without them.")
            self.rebuild()
            return
        # Only now: a failed forgetting is tried again.
        self._position = replace(self._position, forgetting=last)
        self.checkpoint()

    def _pending(self, last_seq: int) -> Iterator[list[Turn]]:
        turns = iter(self.journal.turns(after=self._position.seq))
        batches = iter(lambda: list(islice(turns, _BATCH)), [])
        missing = last_seq - self._position.seq
        if missing <= _BATCH:
            return batches
        total = -(-missing // _BATCH)
        return iter(
            self._resources.progress(batches, total=total, label=f"Reading the journal into {self.name}")
        )


def backend_lock(home: Home, user: str, backend: str) -> BackendLock:
    """The lock of one user's backend, not yet acquired."""
    return BackendLock(home.backend_folder(user, backend), f"The {backend} memory of user {user!r}")
