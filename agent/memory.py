"""One user's journal with one backend over it: what the conversation and the command line hold.

    with Memory.open(home, "ana", "rag") as memory:
        memory.remember("monday", "user", "My dog is called Biscuit.")
        memory.recall("What is my dog called?")

The journal is written first and alone decides what is true. The backend follows it: on opening, and
before every recall, it takes in whatever turns and forgettings it has not seen, whoever wrote them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from memagent.agent.checkpoint import CheckpointStore, Position
from memagent.agent.follower import Follower
from memagent.agent.home import Home
from memagent.agent.journal import Journal
from memagent.agent.lock import DEFAULT_WAIT_SECONDS, BackendLock
from memagent.agent.models.embedding import load_embedder
from memagent.backends import registry
from memagent.backends.errors import SettingError
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

Notify = Callable[[str], None]


def open_journal(home: Home, user: str) -> Journal:
    """Open a user's journal: the shared database if the home names one, else the user's own file."""
    return Journal(home.journal_url or home.journal_file(user), user)


class Memory:
    """A journal and a backend that follows it. Build it with ``open``."""

    def __init__(self, home: Home, lock: BackendLock, follower: Follower) -> None:
        self.home = home
        self.journal = follower.journal
        self.name = follower.name
        self.follower = follower
        self._lock = lock
        self._closed = False

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
        settings = settings or {}
        config = registry.configure(make_backend, settings)
        journal = open_journal(home, user)
        try:
            if lock is None:
                lock = backend_lock(home, user, backend)
                lock.acquire(wait_seconds)
            store = CheckpointStore(home.backend_folder(user, backend))
            resources = Resources(
                workspace=store.fresh_scratch(),
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
                store.discard()
            follower = Follower(
                journal, store, make_backend, config, settings, resources, notify=notify, strict=strict
            )
            memory = cls(home, lock, follower)
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
        resources = self.follower.resources
        return Memory.open(
            self.home,
            self.user,
            backend,
            settings,
            make_embedder=resources.make_embedder,
            make_model=resources.make_model,
            seed=resources.seed,
            lock=lock,
            strict=True,
            follow=False,
            notify=self.follower.notify,
            progress=resources.progress,
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
        return self.follower.position

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

    @property
    def _backend(self) -> MemoryBackend:
        """Asked for each time: a rebuild replaces it."""
        return self.follower.backend

    def catch_up(self) -> int:
        """Follow the journal to its end and return how many turns were read."""
        return self.follower.catch_up()

    def rebuild(self) -> int:
        """Throw the backend's state away and read the whole journal again; return the turns read."""
        return self.follower.rebuild()

    def consolidate(self) -> ConsolidationReport:
        """Let the backend tidy up, and store the result."""
        return self.follower.consolidate()

    def stats(self) -> BackendStats:
        return self._backend.stats()

    def checkpoint(self) -> None:
        """Store the backend's state; a crash before the end leaves the old one."""
        self.follower.checkpoint()

    def close(self) -> None:
        """Store the state if reading its turns again would take noticeable time, and let go of the lock.

        Closing again does nothing.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self.follower.checkpoint_if_due()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._closed = True
        self.follower.close()
        self._lock.release()
        self.journal.close()


def backend_lock(home: Home, user: str, backend: str) -> BackendLock:
    """The lock of one user's backend, not yet acquired."""
    return BackendLock(home.backend_folder(user, backend), f"The {backend} memory of user {user!r}")
