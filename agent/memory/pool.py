"""The open memories of many users: each is opened on demand, kept open while it is used, and closed when it is idle.

with MemoryPool(backend="rag") as pool, pool.memory("ana") as memory:
    memory.remember("monday", "user", "My dog is called Biscuit.")
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from types import TracebackType
from typing import Any, Self

from memagent.agent.home import Home
from memagent.agent.memory.composition import open_memory
from memagent.agent.memory.lock import DEFAULT_WAIT_SECONDS
from memagent.agent.memory.memory import Memory
from memagent.agent.models.catalogue import DEFAULT_MODEL
from memagent.agent.models.chat import ChatModel
from memagent.agent.models.models import Models
from memagent.backends.errors import SettingError, StorageError

_LOG = logging.getLogger("memagent")
_MIN_TIMER_SECONDS = 0.1
"""The timer thread sleeps at least so long, also if memories are closed after a shorter idle time."""


class MemoryPool:
    """The open memories of many users, over one set of models. All methods may be called from any thread.

    Opening one user's memory blocks only calls of the same user, except where a model is loaded that others need too.
    One process at a time has a user's memory open, so a server with several processes sends each user to one of them.

    Args:
        home: the folders of the installation; by default those that the environment names.
        backend: name of the memory backend, or several names joined by ``+``.
        settings: the backend's hyper-parameters as text, by field name.
        embedder: an embedder's name as after ``--embedder``; None: as the environment says. Not used if ``models`` is given.
        model: a model's name as after ``--model``, or a chat model; for backends that work inside a local model.
        models: the models of all users; by default, those of the home's folder. Each is fetched and loaded once.
        max_open: when more memories are open, those used least recently are closed; those in use are not.
        idle_seconds: a memory that nobody uses for so long is closed.
        wait_seconds: how long an opening waits for another process that uses the memory.
        clock: returns the time in seconds, for idle times.

    Attributes:
        home: the folders of the installation.
        models: the models of all users.
        model: name of the chat model.

    Raises:
        SettingError: ``max_open`` or ``idle_seconds`` is not positive, or the environment names unusable folders.
    """

    def __init__(
        self,
        home: Home | None = None,
        *,
        backend: str = "rag",
        settings: Mapping[str, str] | None = None,
        embedder: str | None = None,
        model: str | ChatModel = DEFAULT_MODEL,
        models: Models | None = None,
        max_open: int = 64,
        idle_seconds: float = 300.0,
        wait_seconds: float = DEFAULT_WAIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_open < 1 or not idle_seconds > 0:
            raise SettingError(
                f"max_open={max_open}, idle_seconds={idle_seconds:g}: expected at least 1 open memory and a positive time."
            )
        self.home = home or Home.from_environment()
        models = models or Models.shared(self.home.models, embedder)
        if not isinstance(model, str):
            models = models.with_chat(model)
        self.models = replace(
            models, embedder=_once(models.embedder), chat=_once(models.chat), fetch=_once(models.fetch)
        )
        self.model = model if isinstance(model, str) else model.name
        self._backend = backend
        self._settings = dict(settings or {})
        self._max_open = max_open
        self._idle_seconds = idle_seconds
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._guard = threading.Lock()  # of all fields below; held for moments only
        self._slots: OrderedDict[str, _Slot] = OrderedDict()  # by user, least recently used first
        self._closed = False
        self._timer: threading.Thread | None = None
        self._stop_timer = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def memory(self, user: str) -> Iterator[Memory]:
        """Lend the open memory of a user; it is not closed before the ``with`` block ends.

        Several threads may have the same memory at once: its calls wait for each other. A caller may also close the memory
        of another user here, because too many are open; if that fails, the error is logged.

        Args:
            user: name of the user.

        Yields:
            The memory. Do not close it.

        Raises:
            StorageError: the pool is closed.
            MemagentError: see ``open_memory``. The next call tries again.
        """
        slot = self._borrow(user)
        try:
            with slot.lock:
                if slot.memory is None:
                    slot.memory = self._open(user)
                memory = slot.memory
            self._close_surplus()
            yield memory
        finally:
            self._give_back(slot)

    def reader(self, user: str) -> Memory:
        """Open a user's memory for reading only, apart from the pool: also while another process has it open.

        Args:
            user: name of the user.

        Returns:
            The memory, which the caller closes.

        Raises:
            MemagentError: see ``open_memory``.
        """
        return self._open(user, read_only=True)

    @property
    def open_users(self) -> list[str]:
        """The users whose memory is open, the least recently used first."""
        with self._guard:
            return [slot.user for slot in self._slots.values() if slot.memory is not None]

    def close_idle(self) -> None:
        """Close the memories that nobody has used for ``idle_seconds``. A thread of the pool calls it in time."""
        with self._guard:
            latest = self._clock() - self._idle_seconds
            idle = [slot for slot in self._unused() if slot.returned_at <= latest]
        self._close_logged(idle)

    def close(self) -> None:
        """Close all memories and store their states. A memory in use is closed when its last user gives it back.

        A second call does nothing.

        Raises:
            MemagentError: the state of a memory cannot be stored. All others are closed; turns are in the journals.
        """
        with self._guard:
            self._closed = True
            timer, self._timer = self._timer, None
            unused = self._unused()
        if timer is not None:
            self._stop_timer.set()
            timer.join()
        with ExitStack() as stack:
            for slot in unused:
                stack.callback(self._close, slot)

    def _borrow(self, user: str) -> _Slot:
        """Return a user's slot, counted as in use."""
        with self._guard:
            if self._closed:
                raise StorageError("The pool of memories is closed. Make a new MemoryPool.")
            if self._timer is None:
                self._timer = threading.Thread(target=self._run_timer, name="memagent-pool", daemon=True)
                self._timer.start()
            slot = self._slots.setdefault(user, _Slot(user))
            slot.borrowers += 1
            return slot

    def _open(self, user: str, **options: Any) -> Memory:
        """Open a user's memory with the pool's models.

        Args:
            user: name of the user.
            options: as for ``open_memory``.
        """
        return open_memory(
            self.home,
            self.models,
            user,
            self._backend,
            self._settings,
            model=self.model,
            wait_seconds=self._wait_seconds,
            **options,
        )

    def _give_back(self, slot: _Slot) -> None:
        """Count a slot as used just now, and close what is beyond the limit."""
        with self._guard:
            slot.borrowers -= 1
            slot.returned_at = self._clock()
            self._slots.move_to_end(slot.user)
            self._remove_if_empty(slot)
        self._close_surplus()

    def _unused(self) -> list[_Slot]:
        """Return the open memories that nobody uses, least recently used first. The caller has the guard."""
        return [slot for slot in self._slots.values() if slot.memory is not None and not slot.borrowers]

    def _close_surplus(self) -> None:
        """Close the least recently used memories while more than ``max_open`` are open; if the pool is closed, all."""
        with self._guard:
            limit = 0 if self._closed else self._max_open
            surplus = sum(slot.memory is not None for slot in self._slots.values()) - limit
            slots = self._unused()[: max(surplus, 0)]
        self._close_logged(slots)

    def _close_logged(self, slots: Sequence[_Slot]) -> None:
        """Close memories; an error is logged, because the caller may be another user."""
        for slot in slots:
            try:
                self._close(slot)
            except Exception as error:  # noqa: BLE001 - whatever a backend raises
                _LOG.warning(
                    "Closing the memory of user %r failed: %s The next opening reads its turns from the journal.",
                    slot.user,
                    error,
                    exc_info=True,
                )

    def _close(self, slot: _Slot) -> None:
        """Close a slot's memory unless it is in use again. Calls of the same user wait, and open it anew."""
        with slot.lock:
            with self._guard:
                memory = slot.memory
                if memory is None or slot.borrowers:
                    return
                slot.memory = None
            try:
                memory.close()
            finally:
                with self._guard:
                    self._remove_if_empty(slot)

    def _remove_if_empty(self, slot: _Slot) -> None:
        """Remove a slot that has no memory and is not in use, unless it was removed. The caller has the guard."""
        if slot.memory is None and not slot.borrowers and self._slots.get(slot.user) is slot:
            del self._slots[slot.user]

    def _run_timer(self) -> None:
        """Close idle memories whenever the first of them is due, until the pool is closed."""
        while not self._stop_timer.wait(self._seconds_until_idle()):
            self.close_idle()

    def _seconds_until_idle(self) -> float:
        """Return the seconds until the first memory has been idle for so long that it is closed."""
        with self._guard:
            times = [slot.returned_at for slot in self._unused()]
            seconds = min(times, default=self._clock()) + self._idle_seconds - self._clock()
        return min(max(seconds, _MIN_TIMER_SECONDS), threading.TIMEOUT_MAX)


@dataclass(eq=False)
class _Slot:
    """Place of one user's memory, from before it is opened until after it is closed.

    Attributes:
        user: name of the user.
        lock: held while the memory is opened or closed.
        memory: None while it is not open.
        borrowers: how many callers use it or wait for it.
        returned_at: when it was last given back, by the pool's clock.
    """

    user: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    memory: Memory | None = None
    borrowers: int = 0
    returned_at: float = 0.0


def _once(load: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that keeps each result; threads that need the same one wait for the first. Errors are not kept."""
    lock = threading.Lock()
    cached = cache(load)

    def load_once(*arguments: Any) -> Any:
        with lock:
            return cached(*arguments)

    return load_once
