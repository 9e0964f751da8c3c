"""One user's memory: a journal and one or several backends that follow it. Programs open it as ``Memory``.

    with Memory.open(home, "ana", "rag") as memory:
        memory.remember("monday", "user", "My dog is called Biscuit.")
        memory.recall("What is my dog called?")

The journal is written first and alone decides what is true. Each backend follows it: on opening, and before every
recall, it reads all new turns and forgettings, whichever process wrote them.

A memory may be used from any thread: calls wait for each other. One process at a time may open it for writing. Any
number of other processes may open it for reading at the same time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from types import TracebackType
from typing import Any, Self

from memagent.agent.home import Home
from memagent.agent.journal import Journal
from memagent.agent.journal.item_index import outdated_seqs
from memagent.agent.memory.channel import AttachedMemory, attach
from memagent.agent.memory.checkpoint import Position
from memagent.agent.memory.follower import Follower
from memagent.agent.memory.forgetting import Forgotten, Remaining, correct, forget
from memagent.agent.memory.fusion import add_reports, add_stats
from memagent.agent.memory.lock import DEFAULT_WAIT_SECONDS, BackendLock
from memagent.agent.memory.opening import Notify, Opening, disk_errors, open_journal
from memagent.agent.memory.provenance import with_provenance
from memagent.agent.memory.recall import recall
from memagent.agent.models.embedding import load_embedder
from memagent.backends import registry
from memagent.backends.errors import SettingError, StorageError
from memagent.backends.picture import Picture
from memagent.backends.protocol import LocalModel, Progress, silent
from memagent.backends.records import BackendStats, ConsolidationReport, Hit, Recollection, Turn, WriteResult

_LOG = logging.getLogger("memagent")
WriteResults = Mapping[str, Mapping[int, WriteResult]]
"""What backends did with the turns that they read last: by the backend's name, then by seq."""


class Memory:
    """A user's journal and the backends that follow it. Build it with ``open``.

    Attributes:
        home: the folders of the installation.
        journal: the user's journal.
        name: name of the backend; names of several backends are joined by ``+``.
        followers: the backends, each with its position in the journal, in the order of their names.
        read_only: True if the memory recalls only.
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
        notify: Notify | None = None,
        progress: Progress = silent,
    ) -> Memory:
        """Open a user's memory: load the backend's checkpoint, then read the turns that the journal has after it.

        A checkpoint that is missing, damaged, or of another model or setting is rebuilt from the journal, and ``notify``
        gets a message about it. A memory that is opened for writing also finishes interrupted forgettings, in its own
        files and in those of the user's other memories.

        Args:
            home: the folders of the installation.
            user: name of the user.
            backend: a name that ``registry.names()`` lists, or several joined by ``+``: each recalls, and their hits are
                fused.
            settings: hyper-parameters as text, by field name; for several backends, by ``backend.field``.
            make_embedder: builds the shared embedder on first use.
            make_model: builds the local language model on first use.
            seed: seed of everything random.
            lock: an acquired lock of this backend, which the memory releases when it is closed.
            wait_seconds: how long to wait for another process that uses this memory.
            strict: raise CheckpointError instead of rebuilding a stored state.
            fresh: discard the stored state first, and read the whole journal again.
            follow: read the new turns now; False: when the memory is first used.
            read_only: recall and stats only. Takes no lock and changes no stored state. Working files are in ``readers/``
                of the backend's folder, or in the system's temporary folder, until it is closed. Works on a read-only disk
                and while another process writes.
            notify: called with each message for the user; None: messages go to the logger ``memagent``, as a warning if a
                stored state is discarded.
            progress: wraps long loops.

        Raises:
            JournalDamagedError: the journal has lost turns.
            CheckpointError: the state of a costly backend is of another model or of other settings.
            NotFoundError: the backend or a setting does not exist.
            SettingError: a setting does not fit.
            BusyError: another process uses the memory.
            StorageError: the home folder or the journal cannot be read or written.
        """
        choices = registry.choose(backend, settings or {})
        opening = Opening(
            home,
            cache(make_embedder or (lambda: load_embedder(home.models, notify=notify or _LOG.info))),
            make_model,
            seed,
            lock,
            wait_seconds,
            strict,
            fresh,
            read_only,
            notify or _LOG.warning,  # followers only tell of states that are thrown away
            progress,
        )
        with disk_errors(backend), ExitStack() as stack:
            if lock is not None:
                stack.callback(lock.release)
            journal = stack.enter_context(open_journal(home, user, read_only=read_only))
            followers = [opening.follower(journal, choice, stack) for choice in choices]
            memory = cls(home, journal, followers, stack, read_only=read_only)
            if follow:
                memory.catch_up()
                if not read_only and (journal.unfinished() or outdated_seqs(journal)):
                    memory.finish_forgetting()
            memory._closing = stack.pop_all()
            return memory

    def open_beside(self, backend: str, settings: Mapping[str, str], lock: BackendLock) -> Memory:
        """Open another memory of this user with the same models, as it was stored: it reads no new turns yet.

        Args:
            backend: name of the other backend.
            settings: its hyper-parameters as text, by field name.
            lock: the acquired lock of that backend, which the returned memory releases when it is closed.

        Raises:
            CheckpointError: its state is damaged, or another model produced it.
            NotFoundError: the backend or a setting does not exist any more.
            SettingError: a setting does not fit any more.
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
        """Name of the user."""
        return self.journal.user

    @property
    def position(self) -> Position:
        """The last turn and the last forgetting that all backends have read."""
        return min(
            (follower.position for follower in self.followers),
            key=lambda position: (position.seq, position.forgetting),
        )

    def remember(self, session: str, role: str, text: str, **fields: Any) -> Turn:
        """Add a turn: the journal commits it, then the backends read it.

        Args:
            session: name of the conversation.
            role: ``user``, ``assistant``, ``system`` or ``tool``.
            text: the message; not blank.
            fields: ``speaker``, ``created_at``, ``in_view``, ``derived``, as in ``Turn``; ``attachments`` as in ``NewTurn``.

        Returns:
            The turn as the journal stores it.

        Raises:
            InputError: the text or a name cannot be stored; nothing was stored.
            StorageError: the journal cannot be written, or the memory is closed or read-only, and nothing was stored; or a
                backend's files cannot, and the turn is in the journal.
            ModelError: a model cannot be fetched or loaded; the turn is in the journal.
        """
        with self._exclusive(writing=True):
            turn = self.journal.append(session, role, text, **fields)
            self._catch_up()
            return turn

    def recall(
        self, query: str, *, limit: int = 5, among: Collection[int] | None = None
    ) -> list[Recollection]:
        """Return recollections that are relevant to a query, best first.

        Reads new turns of the journal first, and may store the state; see ``catch_up``.

        Args:
            query: a message or a question; a blank one recalls nothing.
            limit: most recollections returned.
            among: seqs of the turns that are searched; None: all.

        Returns:
            At most ``limit`` recollections; often none. A higher score is more relevant.
        """
        with self._exclusive():
            self._catch_up()
            if not query.strip():
                return []
            return recall(self.journal, self.followers, query, limit, among)

    def pinned(self) -> list[Recollection]:
        """Return the pinned turns, in journal order: every prompt holds them, whatever is asked."""
        hits = [Hit((turn.seq,), 1.0, "It is pinned.") for turn in self.journal.pinned()]
        return with_provenance(self.journal, hits)

    def correct(self, seq: int, text: str) -> tuple[Turn, Forgotten]:
        """Replace the text of a turn everywhere; see ``forgetting.correct``.

        Raises:
            InputError, StorageError: as in ``forgetting.correct``.
        """
        with self._exclusive(writing=True):
            open_backends = {follower.name: follower.catch_up for follower in self.followers}
            return correct(self.home, self.journal, seq, text, self.open_beside, open_backends)

    def forget(self, seqs: Collection[int]) -> Forgotten:
        """Remove turns, and replies that may repeat them, from the journal and from all memories of the user.

        Args:
            seqs: the turns to remove; unknown seqs are ignored.

        Returns:
            What was removed and what remains to be done; see ``forgetting.forget``.

        Raises:
            StorageError: the journal could not be changed; nothing was forgotten.
        """
        with self._exclusive(writing=True):
            open_backends = {follower.name: follower.catch_up for follower in self.followers}
            return forget(self.home, self.journal, seqs, self.open_beside, open_backends)

    def follow_forgettings(self, forgotten: Sequence[Turn] = ()) -> None:
        """Remove from the backends what the journal has forgotten, and store their states; read no new turns.

        Args:
            forgotten: content of the turns that were just forgotten, as far as it is available.
        """
        with self._exclusive(writing=True):
            for follower in self.followers:
                follower.follow_forgettings(forgotten)

    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> AbstractContextManager[AttachedMemory]:
        """Return a context manager that opens the model channel for one generation.

        It reads no new turns first; ``recall`` or ``catch_up`` does. Outdated items are forgotten first, unless read-only.
        Other threads can use the memory while the model generates.

        Args:
            model: the local model that generates the reply.
            query: the message that is being answered.
            exclude: seqs of turns that are in the prompt already.

        Raises:
            SettingError: no backend of this memory has a model channel.
        """
        if not self.has_model_channel:
            raise SettingError(f"The backend {self.name} has no model channel; use --channel text.")
        return self._attached(model, query, exclude)

    @property
    def has_model_channel(self) -> bool:
        """True if at least one of the backends has a model channel."""
        return any(follower.backend.model_channel for follower in self.followers)

    @property
    def all_have_model_channel(self) -> bool:
        """True if every one of the backends acts inside a local model."""
        return all(follower.backend.model_channel for follower in self.followers)

    def catch_up(self) -> WriteResults:
        """Read the journal to its end: forgettings, then turns.

        Stores the state after a forgetting and after long reading, unless read-only.

        Returns:
            What each backend did with the turns; see ``Follower.catch_up``.
        """
        with self._exclusive():
            return self._catch_up()

    def rebuild(self) -> None:
        """Remove the stored state, read the whole journal again, and store the new state. The journal keeps all turns."""
        with self._exclusive(writing=True):
            for follower in self.followers:
                follower.rebuild()

    def consolidate(self) -> ConsolidationReport:
        """Consolidate the backends, store their states, and return what changed."""
        with self._exclusive(writing=True):
            return add_reports({follower.name: follower.consolidate() for follower in self.followers})

    def stats(self) -> BackendStats:
        """Return what the memory stores and what it costs, as of the last turn it has read.

        Reads no new turns and changes no stored state. A backend may load its model.
        """
        with self._exclusive():
            return add_stats({follower.name: follower.backend.stats() for follower in self.followers})

    def picture(self, query: str = "", *, limit: int = 5) -> list[Picture]:
        """Return pictures of the memory, or of one recall, as plain data.

        Reads new turns of the journal first, and may store the state; see ``catch_up``.

        Args:
            query: what to recall; blank: the pictures show the memory itself.
            limit: most hits of the recall.
        """
        with self._exclusive():
            self._catch_up()
            pictures: list[Picture] = []
            for follower in self.followers:
                if query.strip():
                    pictures += follower.backend.picture_of_recall(query, limit=limit)
                else:
                    pictures += follower.backend.picture()
            return pictures

    def checkpoint(self) -> None:
        """Store the backends' states, each as a new generation; see ``Follower.checkpoint``."""
        with self._exclusive(writing=True):
            for follower in self.followers:
                follower.checkpoint()

    def finish_forgetting(self) -> list[Remaining]:
        """Finish interrupted forgettings, forget outdated items, and return what cannot be finished now."""
        return list(self.forget(()).remaining)

    def close(self) -> None:
        """Store the state if reading its turns again would take long, and release the lock.

        Any thread may call it. A second call does nothing.
        """
        with self._guard:
            if self._closed:
                return
            self._closed = True
            with self._closing, ExitStack() as stack:
                for follower in self.followers:
                    stack.callback(follower.close)

    def _catch_up(self) -> WriteResults:
        """Let each backend read the journal to its end. The caller has exclusive use of the memory."""
        return {follower.name: follower.catch_up() for follower in self.followers}

    @contextmanager
    def _attached(self, model: LocalModel, query: str, exclude: Collection[int]) -> Iterator[AttachedMemory]:
        """Attach the backends with exclusive use of the memory, and let go of it while the model generates."""
        with ExitStack() as stack:
            with self._exclusive():
                if not self.read_only and outdated_seqs(self.journal):
                    self.finish_forgetting()  # what acts inside a model cannot be filtered
                attached = attach(self.followers, self.journal, model, query, exclude, stack)
            yield attached

    @contextmanager
    def _exclusive(self, *, writing: bool = False) -> Iterator[None]:
        """Let one call use the memory at a time; the others wait."""
        with self._guard:
            if self._closed:
                raise StorageError(f"The {self.name} memory of user {self.user!r} is closed; open it again.")
            if writing and self.read_only:
                raise StorageError(f"The {self.name} memory of user {self.user!r} is open for reading only.")
            with disk_errors(self.name):
                yield
