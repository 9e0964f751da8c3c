"""Threads that work for many users of one program, without letting one user's work delay that of the others."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from memagent.backends.errors import StorageError

Result = TypeVar("Result")


class FairExecutor:
    """Runs functions in threads. Users are served round robin, and each user's functions run one by one, in order.

    All that is noted is noted in the threads, so it stays true if an event loop that waits for a function is closed.

    Args:
        threads: how many functions run at once.
        name: how the names of the threads begin.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._guard = threading.Lock()  # of all fields below; held for moments only
        self._waiting: OrderedDict[str, deque[_Job]] = OrderedDict()  # by user, the next user first
        self._busy: set[str] = set()  # users whose function runs, or is about to
        self._closed = False

    def submit(self, user: str, function: Callable[[], Result]) -> Future[Result]:
        """Let a function run in a thread when it is the user's turn, in a copy of the caller's context.

        Args:
            user: on whose behalf it runs.
            function: what to run.

        Returns:
            The function's future. Cancelled while the function waits, the function is not started; once started it runs
            to its end. If the executor is closed while the function waits, the future raises a StorageError.

        Raises:
            StorageError: the executor is closed; the function will not be started.
        """
        job = _Job(Future(), partial(copy_context().run, function))
        with self._guard:
            if self._closed:
                raise _closed()
            self._waiting.setdefault(user, deque()).append(job)
            self._start_next()
        job.future.add_done_callback(lambda future: self._withdraw(user, job) if future.cancelled() else None)
        return job.future

    async def close(self) -> None:
        """Refuse functions that are not started yet, and wait for those that run. A second call waits too."""
        with self._guard:
            self._closed = True
            jobs = [job for jobs in self._waiting.values() for job in jobs]
            self._waiting.clear()
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(_closed())
        await asyncio.to_thread(self._executor.shutdown)

    def _start_next(self) -> None:
        """Give free threads to the users who are next and use none. The caller has the guard."""
        while len(self._busy) < self._threads:
            user = next((user for user in self._waiting if user not in self._busy), None)
            if user is None:
                return
            job = self._waiting[user].popleft()
            if not self._waiting[user]:
                del self._waiting[user]
            self._busy.add(user)
            self._executor.submit(self._run, user, job)

    def _run(self, user: str, job: _Job) -> None:
        """Run a user's function. What else this user waits for comes after all others."""
        job.run()
        with self._guard:
            self._busy.discard(user)
            if user in self._waiting:
                self._waiting.move_to_end(user)
            self._start_next()

    def _withdraw(self, user: str, job: _Job) -> None:
        """Remove a cancelled function, so that nothing is kept for a user who does not wait any more."""
        with self._guard:
            jobs = self._waiting.get(user, deque())
            with suppress(ValueError):
                jobs.remove(job)
            if not jobs:
                self._waiting.pop(user, None)


@dataclass(frozen=True, eq=False, slots=True)
class _Job:
    """A function, and the future of its result."""

    future: Future[Any]
    function: Callable[[], Any]

    def run(self) -> None:
        """Run the function unless it was cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function()
        except StopIteration as error:  # no coroutine can be given it: its event loop would wait for ever
            failure = RuntimeError("A function raised StopIteration.")
            failure.__cause__ = error
            self.future.set_exception(failure)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the function gets it
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


def _closed() -> StorageError:
    return StorageError("The agents are closed, and nothing was stored. Open them again.")
