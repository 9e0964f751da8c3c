"""Threads that work for many users of one event loop, without letting one user's work delay that of the others."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

from memagent.backends.errors import StorageError

Result = TypeVar("Result")
_Place = asyncio.Future[None]


class FairExecutor:
    """Runs functions in threads. Users are served round robin, and each user's functions run one by one, in order.

    It belongs to one event loop: its methods are called there only.

    Args:
        threads: how many functions run at once.
        name: how the names of the threads begin.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._waiting: OrderedDict[str, deque[_Place]] = OrderedDict()  # by user, the next user first
        self._busy: set[str] = set()  # users whose function runs, or is about to
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def submit(self, user: str, function: Callable[[], Result]) -> asyncio.Future[Result]:
        """Wait for a thread, and start a function in it, in a copy of the caller's context.

        Cancelled while it waits, the function is not started. Once started it runs to its end.

        Args:
            user: on whose behalf it runs.
            function: what to run.

        Returns:
            The future of the function that has been started.

        Raises:
            StorageError: the executor is closed; the function was not started.
        """
        if self._closed:
            raise _closed()
        await self._acquire_thread(user)
        future = asyncio.get_running_loop().run_in_executor(self._executor, copy_context().run, function)
        future.add_done_callback(lambda _: self._release_thread(user))
        return future

    async def close(self) -> None:
        """Refuse functions that are not started yet, and wait for those that run. A second call waits too."""
        self._closed = True
        for place in (place for places in self._waiting.values() for place in places):
            if not place.done():
                place.set_exception(_closed())
        self._waiting.clear()
        await self._idle.wait()
        self._executor.shutdown()

    async def _acquire_thread(self, user: str) -> None:
        """Wait until a thread is free for a user, and take it."""
        place: _Place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(place)
        self._grant()
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._withdraw(user, place)
            elif place.exception() is None:  # it has just got the thread
                self._release_thread(user)
            raise

    def _grant(self) -> None:
        """Give free threads to the users who are next and use none."""
        while len(self._busy) < self._threads:
            user = next((user for user in self._waiting if user not in self._busy), None)
            if user is None:
                return
            place = self._waiting[user].popleft()
            if not self._waiting[user]:
                del self._waiting[user]
            if not place.done():  # it was not cancelled
                self._busy.add(user)
                self._idle.clear()
                place.set_result(None)

    def _release_thread(self, user: str) -> None:
        """Give a user's thread to the next user. What else this user waits for comes after all others."""
        self._busy.discard(user)
        if user in self._waiting:
            self._waiting.move_to_end(user)
        self._grant()
        if not self._busy:
            self._idle.set()

    def _withdraw(self, user: str, place: _Place) -> None:
        """Remove a cancelled place, so that nothing is kept for a user who does not wait any more."""
        places = self._waiting.get(user, deque())
        with suppress(ValueError):
            places.remove(place)
        if not places:
            self._waiting.pop(user, None)


def _closed() -> StorageError:
    return StorageError("The agents are closed, and nothing was stored. Open them again.")
