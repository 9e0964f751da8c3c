"""One user's journal with one backend over it, or several: what the conversation and the command line hold.

    with Memory.open(home, "ana", "rag") as memory:
        memory.remember("monday", "user", "My dog is called Biscuit.")
        memory.recall("What is my dog called?")

The journal is written first and alone decides what is true. Each backend follows it: on opening, and
before every recall, it takes in whatever turns and forgettings it has not seen, whoever wrote them.

A memory may be used from any thread: calls wait for each other. One process at a time holds it for writing; any
number may have it open for reading beside that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Self, cast

from memagent.agent.files import make_private
from memagent.agent.home import Home
from memagent.agent.journal import Journal
from memagent.agent.memory.checkpoint import Position
from memagent.agent.memory.follower import Follower
from memagent.agent.memory.forgetting import Forgotten, Remaining, forget
from memagent.agent.memory.fusion import add_reports, add_stats, fuse_hits
from memagent.agent.memory.lock import DEFAULT_WAIT_SECONDS, BackendLock
from memagent.agent.memory.opening import Notify, Opening
from memagent.agent.memory.provenance import with_provenance
from memagent.agent.models.embedding import load_embedder
from memagent.backends import registry
from memagent.backends.errors import SettingError, StorageError
from memagent.backends.picture import Picture
from memagent.backends.protocol import LocalModel, ModelMemory, Progress, silent
from memagent.backends.records import BackendStats, ConsolidationReport, Hit, Recollection, Turn, WriteResult


@dataclass(frozen=True, slots=True)
class Attached:
    """What memory brings into the attention of one generation.

    Attributes:
        recollections: what was recalled, for ``/why``.
        seqs: every turn that may show in the reply: those above, and those they were read after.
    """

    recollections: tuple[Recollection, ...]
    seqs: frozenset[int]


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
    """A journal and the backends that follow it. Build it with ``open``.

    Attributes:
        name: the backend's; of several, joined by ``+``.
        followers: the backends with how far each has followed the journal, in the order they were named.
    """

    def __init__(
        self,
        home: Home,
        journal: Journal,
        followers: Sequence[Follower],
        closing: ExitStack,
        *,
        read_only: bool = False,
    ) -> None:
        self.home = home
        self.journal = journal
        self.name = registry.SEPARATOR.join(follower.name for follower in followers)
        self.followers = tuple(followers)
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
            backend: a name that ``registry.names()`` lists, or several joined by ``+``: each recalls, and their hits are fused.
            settings: hyper-parameters as text, by field name; of several backends, as ``backend.field``.
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
        choices = registry.choose(backend, settings or {})
        opening = Opening(
            home,
            cache(make_embedder or (lambda: load_embedder(home.models, notify=notify))),
            make_model,
            seed,
            lock,
            wait_seconds,
            strict,
            fresh,
            read_only,
            notify,
            progress,
        )
        with _disk_errors(backend), ExitStack() as stack:
            if lock is not None:
                stack.callback(lock.release)
            journal = stack.enter_context(open_journal(home, user, read_only=read_only))
            followers = [opening.follower(journal, choice, stack) for choice in choices]
            memory = cls(home, journal, followers, stack, read_only=read_only)
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
        resources = self.followers[0].resources
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
            notify=self.followers[0].notify,
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
        """How far the journal has been followed, by the backend that is furthest behind."""
        return min(
            (follower.position for follower in self.followers), key=lambda one: (one.seq, one.forgetting)
        )

    def remember(self, session: str, role: str, text: str, **fields: Any) -> Turn:
        """Add a turn: committed to the journal, then handed to the backend.

        Args:
            fields: ``speaker``, ``created_at``, ``in_view``, ``derived``, as in ``Turn``; ``attachments`` as in ``NewTurn``.
        """
        with self._held(writing=True):
            turn = self.journal.append(session, role, text, **fields)
            self._catch_up()
            return turn

    def recall(self, query: str, *, limit: int = 5) -> list[Recollection]:
        """Return what is believed relevant to ``query``, best first, at most ``limit`` items."""
        with self._held():
            self._catch_up()
            if not query.strip():
                return []
            rankings = {one.name: one.backend.recall(query, limit=limit) for one in self.followers}
            return with_provenance(self.journal, fuse_hits(rankings, limit))

    def forget(self, seqs: Collection[int]) -> Forgotten:
        """Remove turns everywhere: see ``forgetting.forget``.

        Raises:
            StorageError: the journal could not be changed; nothing was forgotten.
        """
        with self._held(writing=True):
            own = {follower.name: follower.catch_up for follower in self.followers}
            return forget(self.home, self.journal, seqs, self.beside, own)

    def follow_forgettings(self, forgotten: Sequence[Turn] = ()) -> None:
        """Let the backends forget what the journal has forgotten, and read no further.

        Args:
            forgotten: turns that were just forgotten, whose content is still at hand.
        """
        with self._held(writing=True):
            for follower in self.followers:
                follower.follow_forgettings(forgotten)

    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> AbstractContextManager[Attached]:
        """Open the model channel for one generation, as far as the journal has been followed.

        It does not follow the journal first: what is being answered stands there already, and would be recalled.
        While the model generates, the memory can be used by others.

        Raises:
            SettingError: there is none.
        """
        if not self.has_model_channel:
            raise SettingError(f"The backend {self.name} has no model channel; use --channel text.")
        return self._attached(model, query, exclude)

    @property
    def has_model_channel(self) -> bool:
        """Whether any of the backends acts inside a local model."""
        return any(follower.backend.model_channel for follower in self.followers)

    def catch_up(self) -> dict[int, WriteResult]:
        """Follow the journal to its end and return what became of the turns read, by seq; see ``Follower.catch_up``.

        Of several backends the first one's word counts.
        """
        with self._held():
            return self._catch_up()

    def rebuild(self) -> None:
        """Throw the stored state away and read the whole journal again."""
        with self._held(writing=True):
            for follower in self.followers:
                follower.rebuild()

    def consolidate(self) -> ConsolidationReport:
        """Let the backend tidy up, and store the result."""
        with self._held(writing=True):
            return add_reports({one.name: one.consolidate() for one in self.followers})

    def stats(self) -> BackendStats:
        """Return what the memory holds and what it costs."""
        with self._held():
            return add_stats({one.name: one.backend.stats() for one in self.followers})

    def picture(self, query: str = "", *, limit: int = 5) -> list[Picture]:
        """Draw the memory as plain data or, given a query, how it finds what it recalls."""
        with self._held():
            self._catch_up()
            backends = [follower.backend for follower in self.followers]
            if query.strip():
                return [picture for one in backends for picture in one.picture_of_recall(query, limit=limit)]
            return [picture for one in backends for picture in one.picture()]

    def checkpoint(self) -> None:
        """Store the state; a crash before the end leaves the old one."""
        with self._held(writing=True):
            for follower in self.followers:
                follower.checkpoint()

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
            with self._closing, ExitStack() as stack:
                for follower in self.followers:
                    stack.callback(follower.close)

    def _catch_up(self) -> dict[int, WriteResult]:
        results = [follower.catch_up() for follower in self.followers]
        return results[0]

    @contextmanager
    def _attached(self, model: LocalModel, query: str, exclude: Collection[int]) -> Iterator[Attached]:
        with ExitStack() as stack:
            with self._held():
                rankings: dict[str, list[Hit]] = {}
                seqs: frozenset[int] = frozenset()
                for follower in self.followers:
                    if follower.backend.model_channel:
                        channel = cast(ModelMemory, follower.backend)
                        injection = stack.enter_context(channel.attached(model, query, exclude=exclude))
                        rankings[follower.name] = injection.hits
                        seqs |= injection.seqs
                hits = fuse_hits(rankings, limit=sum(map(len, rankings.values())))
                attached = Attached(tuple(with_provenance(self.journal, hits)), seqs)
            yield attached

    @contextmanager
    def _held(self, *, writing: bool = False) -> Iterator[None]:
        """One call at a time; the others wait."""
        with self._guard:
            if self._closed:
                raise StorageError(f"The {self.name} memory of user {self.user!r} is closed; open it again.")
            if writing and self.read_only:
                raise StorageError(
                    f"The {self.name} memory of user {self.user!r} was opened for reading only."
                )
            with _disk_errors(self.name):
                yield


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
