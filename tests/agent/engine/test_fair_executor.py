"""Threads shared by many users: whose function runs next, what a cancellation leaves, and what closing waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from memagent.agent.engine.fair_executor import FairExecutor
from memagent.backends.errors import StorageError

WAIT = 60
COLOUR: ContextVar[str] = ContextVar("colour", default="none")


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, WAIT))


class Recorder:
    """Functions that record their names, and go on when the test opens the gate."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.gate = threading.Event()

    def function(self, name: str) -> Callable[[], str]:
        def record() -> str:
            self.names.append(name)
            assert self.gate.wait(WAIT)
            return name

        return record


async def submit(executor: FairExecutor, recorder: Recorder, names: str) -> list[asyncio.Task[str]]:
    """Submit functions by names such as ``a1 b1``: the letter is the user. All are running or waiting afterwards."""

    async def result(name: str) -> str:
        return await asyncio.wrap_future(executor.submit(name[0], recorder.function(name)))

    tasks = [asyncio.create_task(result(name)) for name in names.split()]
    await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ("a1 a2 a3", "a1 a2 a3"),
        ("a1 a2 a3 b1 c1 b2", "a1 b1 c1 a2 b2 a3"),
        ("a1 b1 a2", "a1 b1 a2"),
    ],
)
def test_users_are_served_round_robin(names: str, order: str) -> None:
    async def main() -> None:
        executor, recorder = FairExecutor(1, "test"), Recorder()
        tasks = await submit(executor, recorder, names)
        recorder.gate.set()
        assert list(await asyncio.gather(*tasks)) == names.split()
        assert recorder.names == order.split()
        await executor.close()

    run(main())


def test_a_user_has_one_thread_at_a_time() -> None:
    async def main() -> None:
        executor, recorder = FairExecutor(3, "test"), Recorder()
        tasks = await submit(executor, recorder, "a1 a2 a3 b1")
        recorder.gate.set()
        await asyncio.gather(*tasks)
        assert sorted(recorder.names[:2]) == ["a1", "b1"]
        assert recorder.names[2:] == ["a2", "a3"]
        await executor.close()

    run(main())


def test_a_function_that_waits_is_not_started_once_it_is_cancelled() -> None:
    async def main() -> None:
        executor, recorder = FairExecutor(1, "test"), Recorder()
        first, second, third = await submit(executor, recorder, "a1 b1 c1")
        second.cancel()
        await asyncio.sleep(0)
        recorder.gate.set()
        assert list(await asyncio.gather(first, third)) == ["a1", "c1"]
        assert second.cancelled()
        assert recorder.names == ["a1", "c1"]
        await executor.close()

    run(main())


def test_a_cancellation_in_the_moment_of_starting_gives_the_thread_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        executor, recorder = FairExecutor(1, "test"), Recorder()
        start = executor._executor.submit

        def start_late(run_job: Callable[..., None], user: str, job: Any) -> None:
            def cancel_and_run() -> None:
                if user == "b":  # it has got the thread, and has not run yet
                    job.future.cancel()
                run_job(user, job)

            start(cancel_and_run)

        monkeypatch.setattr(executor._executor, "submit", start_late)
        recorder.gate.set()
        futures = [executor.submit(name[0], recorder.function(name)) for name in ("a1", "b1", "c1")]
        await asyncio.wait([asyncio.wrap_future(future) for future in futures])
        assert futures[1].cancelled()
        assert recorder.names == ["a1", "c1"]
        await executor.close()

    run(main())


def test_what_a_closed_event_loop_has_left_is_done_and_holds_up_nobody() -> None:
    executor, recorder = FairExecutor(1, "test"), Recorder()

    async def leave() -> None:
        await submit(executor, recorder, "a1 b1")  # asyncio.run cancels both: one runs, one waits

    async def go_on() -> None:
        tasks = await submit(executor, recorder, "a2 c1")
        recorder.gate.set()
        assert list(await asyncio.gather(*tasks)) == ["a2", "c1"]
        await executor.close()

    run(leave())
    run(go_on())
    assert sorted(recorder.names) == ["a1", "a2", "c1"]


def test_a_function_that_raises_stop_iteration_does_not_leave_its_caller_waiting() -> None:
    async def main() -> None:
        executor = FairExecutor(1, "test")
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wrap_future(executor.submit("a", lambda: next(iter(()))))
        await executor.close()

    run(main())


def test_a_function_runs_in_a_copy_of_the_callers_context_and_raises_in_its_future() -> None:
    def fail() -> str:
        colour = COLOUR.get()
        COLOUR.set("blue")
        raise ValueError(colour)

    async def main() -> None:
        executor = FairExecutor(1, "test")
        COLOUR.set("red")
        for _ in range(2):
            with pytest.raises(ValueError, match="red"):
                await asyncio.wrap_future(executor.submit("a", fail))
        await executor.close()

    run(main())


def test_closing_waits_for_what_runs_and_refuses_what_waits() -> None:
    async def main() -> None:
        executor, recorder = FairExecutor(1, "closing"), Recorder()
        first, second = await submit(executor, recorder, "a1 b1")
        closing = asyncio.create_task(executor.close())
        await asyncio.sleep(0)
        with pytest.raises(StorageError, match="closed, and nothing was stored"):
            await second
        with pytest.raises(StorageError, match="closed"):
            executor.submit("c", recorder.function("c1"))
        assert not closing.done()
        recorder.gate.set()
        await closing
        assert await first == "a1"
        assert recorder.names == ["a1"]
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("closing")]
        await executor.close()

    run(main())
