"""One user's journal with one backend over it: what the conversation and the command line hold.

    with Memory.open(home, "ana", "rag") as memory:
        memory.remember("monday", "user", "My dog is called Biscuit.")
        memory.recall("What is my dog called?")

The journal is written first and alone decides what is true. The backend follows it: on opening, and
before every recall, it takes in whatever turns and forgettings it has not seen, whoever wrote them.

A memory may be used from any thread: calls wait for each other. One process at a time holds it for writing; any
number may have it open for reading beside that.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self, cast

from memagent.agent.files import make_private
from memagent.agent.home import Home
from memagent.agent.journal import Journal
from memagent.agent.memory.checkpoint import CheckpointStore, Position
from memagent.agent.memory.follower import Follower, discard
from memagent.agent.memory.forgetting import Forgotten, Remaining, forget
from memagent.agent.memory.lock import DEFAULT_WAIT_SECONDS, BackendLock, backend_lock
from memagent.agent.memory.workspace import ReaderPlace, Scratch
from memagent.agent.models.embedding import load_embedder
from memagent.backends import registry
from memagent.backends.errors import SettingError, StorageError
from memagent.backends.protocol import (
    BackendStats,
    ConsolidationReport,
    Injection,
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


def open_journal(home: Home, user: str, *, read_only: bool = False, trusting: bool = False) -> Journal:
    """Open a user's journal: the shared database if the home names one, else the user's own file.

    Args:
        read_only, trusting: see ``Journal``.
    """
    if not read_only:
        make_private(home.user_folder(user))
    target = home.journal_url or home.journal_file(user)
    return Journal(target, user, mark=home.mark_file(user), read_only=read_only, trusting=trusting)


class Memory:
    """A journal and a backend that follows it. Build it with ``open``."""

    def __init__(
        self, home: Home, follower: Follower, closing: ExitStack, *, read_only: bool = False
    ) -> None:
        self.home = home
        self.journal = follower.journal
        self.name = follower.name
        self.follower = follower
        self.read_only = read_only
        self._closing = closing
        self._guard = threading.RLock()
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
        read_only: bool = False,
        notify: Notify = lambda message: None,
        progress: Progress = silent,
    ) -> Memory:
        """Open a user's memory: load the backend's checkpoint and read the journal's tail into it.

        A checkpoint that is missing, damaged or made by something else is rebuilt from the journal,
        and ``notify`` is told so. A memory that is opened to be written also finishes what an interrupted
        forgetting has left to do, in this memory and in the user's others.

        Args:
            backend: a name that ``registry.names()`` lists.
            settings: the backend's hyper-parameters as text, by field name.
            make_embedder, make_model: build the shared models on first use.
            lock: an already acquired lock of this backend, which passes to the memory.
            wait_seconds: how long to wait for another process that holds this memory.
            strict: raise CheckpointError where the stored state would have to be rebuilt.
            fresh: throw the stored state away first, and read the whole journal again.
            follow: read the journal's tail now; else when the memory is first used.
            read_only: recall and stats only. Needs no lock, stores nothing, and works beside a process that writes and
                on a read-only disk.

        Raises:
            JournalDamagedError: the journal lacks turns that it once had.
            CheckpointError: the state of a costly backend was made by another model or with other settings.
            NotFoundError, SettingError: the backend or a setting does not exist or does not fit.
            BusyError: another process holds the memory.
            StorageError: the home folder or the journal cannot be used.
        """
        make_backend = registry.get(backend)
        settings = settings or {}
        config = registry.configure(make_backend, settings)
        with _disk_errors(backend), ExitStack() as stack:
            if lock is not None:
                stack.callback(lock.release)
            journal = stack.enter_context(open_journal(home, user, read_only=read_only))
            folder = home.backend_folder(user, backend)
            store = CheckpointStore(folder)
            if read_only:
                reader = ReaderPlace(folder, journal.last()[1])
                stack.callback(reader.drop)
                workspace = reader.path
            else:
                if lock is None:
                    lock = backend_lock(home, user, backend)
                    lock.acquire(wait_seconds)
                    stack.callback(lock.release)
                scratch = Scratch(folder)
                workspace = scratch.make()
                stack.callback(scratch.drop)
            resources = Resources(
                workspace=workspace,
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
                discard(journal, store, backend, home.place())
            follower = Follower(
                journal,
                store,
                "" if read_only else home.place(),
                make_backend,
                config,
                settings,
                resources,
                notify=notify,
                strict=strict,
                read_only=read_only,
            )
            stack.callback(follower.abandon)
            memory = cls(home, follower, stack, read_only=read_only)
            if follow:
                memory.catch_up()
                if not read_only and journal.unfinished():
                    memory.finish_forgetting()
            memory._closing = stack.pop_all()
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
        with self._held(writing=True):
            turn = self.journal.append(session, role, text, **fields)
            self.follower.catch_up()
            return turn

    def recall(self, query: str, *, limit: int = 5) -> list[Recollection]:
        """Return what the backend believes relevant to ``query``, best first, at most ``limit`` items."""
        with self._held() as backend:
            self.follower.catch_up()
            # asked for anew: a rebuild replaces it
            backend = self.follower.backend
            return backend.recall(query, limit=limit) if query.strip() else []

    def forget(self, seqs: Collection[int]) -> Forgotten:
        """Remove turns everywhere: see ``forgetting.forget``.

        Raises:
            StorageError: the journal could not be changed; nothing was forgotten.
        """
        with self._held(writing=True):
            return forget(
                self.home, self.journal, seqs, self.beside, own=self.name, follow=self.follower.catch_up
            )

    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> AbstractContextManager[Injection]:
        """Open the backend's model channel for one generation, as far as the backend has followed the journal.

        It does not follow the journal first: what is being answered stands there already, and would come to mind.
        While the model generates, the memory can be used by others.

        Raises:
            SettingError: the backend has none.
        """
        if not self.has_model_channel:
            raise SettingError(f"The backend {self.name} has no model channel; use --channel text.")
        return self._attached(model, query, exclude)

    @property
    def has_model_channel(self) -> bool:
        return isinstance(self.follower.backend, ModelMemory)

    def catch_up(self) -> int:
        """Follow the journal to its end and return how many turns were read."""
        with self._held():
            return self.follower.catch_up()

    def rebuild(self) -> int:
        """Throw the backend's state away and read the whole journal again; return the turns read."""
        with self._held(writing=True):
            return self.follower.rebuild()

    def consolidate(self) -> ConsolidationReport:
        """Let the backend tidy up, and store the result."""
        with self._held(writing=True):
            return self.follower.consolidate()

    def stats(self) -> BackendStats:
        with self._held() as backend:
            return backend.stats()

    def checkpoint(self) -> None:
        """Store the backend's state; a crash before the end leaves the old one."""
        with self._held(writing=True):
            self.follower.checkpoint()

    def finish_forgetting(self) -> list[Remaining]:
        """Do what an interrupted forgetting has left to do, and return what cannot be done here and now."""
        return list(self.forget(()).remaining)

    def close(self) -> None:
        """Store the state if reading its turns again would take noticeable time, and let go of the lock.

        May be called from any thread. Closing again does nothing.
        """
        with self._guard:
            if self._closed:
                return
            self._closed = True
            with self._closing:
                self.follower.close()

    @contextmanager
    def _attached(self, model: LocalModel, query: str, exclude: Collection[int]) -> Iterator[Injection]:
        with ExitStack() as stack:
            with self._held() as backend:
                attachment = stack.enter_context(
                    cast(ModelMemory, backend).attached(model, query, exclude=exclude)
                )
            yield attachment

    @contextmanager
    def _held(self, *, writing: bool = False) -> Iterator[MemoryBackend]:
        """One call at a time; the others wait."""
        with self._guard:
            if self._closed:
                raise StorageError(f"The {self.name} memory of user {self.user!r} is closed; open it again.")
            if writing and self.read_only:
                raise StorageError(
                    f"The {self.name} memory of user {self.user!r} was opened for reading only."
                )
            with _disk_errors(self.name):
                yield self.follower.backend


@contextmanager
def _disk_errors(backend: str) -> Iterator[None]:
    """Turn the disk's errors into StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The files of the {backend} memory cannot be read or written: {error}. The journal is kept apart from them, and "
            "the memory reads there what it lacks when it is next used. Free some space, or mend the disk or the rights."
        ) from error
