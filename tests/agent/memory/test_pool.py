"""The memories of many users: opened on demand, one for each user, kept open, and closed when idle or too many."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from memagent.agent.home import Home
from memagent.agent.memory import Memory
from memagent.agent.memory.composition import open_memory
from memagent.agent.memory.pool import MemoryPool
from memagent.agent.models.fakes import EchoModel
from memagent.agent.models.models import Models
from memagent.agent.testing import HashingEmbedder, tiny_model
from memagent.backends.errors import BusyError, InputError, NotFoundError, SettingError, StorageError
from tests.agent.memories import FACT, QUESTION, Stubborn, offer

OpenPool = Callable[..., MemoryPool]
WAIT = 60


@pytest.fixture
def open_pool(home: Home) -> Iterator[OpenPool]:
    """Open pools as ``open_pool(**options)``; each is closed at the end."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(MemoryPool(home, **{"backend": "in_memory", **options}))


class Clock:
    """A clock that stands still until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def use(pool: MemoryPool, *users: str) -> None:
    for user in users:
        with pool.memory(user):
            pass


# Lending


def test_each_user_has_a_memory_that_stays_open(open_pool: OpenPool) -> None:
    pool = open_pool()
    with pool.memory("ana") as ana, pool.memory("ben") as ben:
        ana.remember("monday", "user", FACT)
        assert ben.recall(QUESTION) == []
    with pool.memory("ana") as memory:
        assert memory is ana
        assert [item.text for item in memory.recall(QUESTION)] == [FACT]
    assert pool.open_users == ["ben", "ana"]


def test_a_reader_recalls_beside_a_memory_that_is_open_elsewhere(open_pool: OpenPool) -> None:
    holder, pool = open_pool(), open_pool(wait_seconds=0.0)
    with holder.memory("ana") as memory:
        memory.remember("monday", "user", FACT)
        with pytest.raises(BusyError):
            use(pool, "ana")
        with pool.reader("ana") as reader:
            assert [item.text for item in reader.recall(QUESTION)] == [FACT]
            with pytest.raises(StorageError, match="for reading only"):
                reader.remember("monday", "user", "x")
    assert pool.open_users == []


@pytest.mark.parametrize("backend", ["in_memory", "rag"])
def test_ten_threads_of_ten_users_get_their_own_memories_only(open_pool: OpenPool, backend: str) -> None:
    pool = open_pool(backend=backend, max_open=4)
    users = [f"user{number}" for number in range(10)]
    start = threading.Barrier(len(users))

    def work(user: str) -> list[set[str]]:
        start.wait(WAIT)
        texts = []
        for number in range(3):
            with pool.memory(user) as memory:
                memory.remember("monday", "user", f"My dog is called {user}-{number}.")
                texts.append({item.text for item in memory.recall(QUESTION, limit=9)})
        return texts

    with ThreadPoolExecutor(len(users)) as threads:
        for user, texts in zip(users, threads.map(work, users), strict=True):
            assert texts[-1] == {f"My dog is called {user}-{number}." for number in range(3)}
    assert len(pool.open_users) <= 4


def test_threads_of_one_user_share_one_memory(open_pool: OpenPool) -> None:
    pool = open_pool()
    inside = threading.Barrier(4)

    def work(number: int) -> Memory:
        with pool.memory("ana") as memory:
            inside.wait(WAIT)  # all have it at once
            memory.remember("monday", "user", f"Dog number {number}.")
            return memory

    with ThreadPoolExecutor(4) as threads:
        memories = list(threads.map(work, range(4)))
    assert len(set(memories)) == 1
    assert memories[0].journal.count() == 4


def test_a_slow_opening_blocks_no_other_user(open_pool: OpenPool, monkeypatch: pytest.MonkeyPatch) -> None:
    ben_is_served = threading.Event()
    opened: list[str] = []

    def open_slowly(home: Home, models: Models, user: str, *arguments: Any, **options: Any) -> Memory:
        if user == "ana":
            assert ben_is_served.wait(WAIT)
        opened.append(user)
        return open_memory(home, models, user, *arguments, **options)

    monkeypatch.setattr("memagent.agent.memory.pool.open_memory", open_slowly)
    pool = open_pool()
    with ThreadPoolExecutor(2) as threads:
        slow = [threads.submit(use, pool, "ana") for _ in range(2)]
        use(pool, "ben")
        ben_is_served.set()
        for call in slow:
            call.result(WAIT)
    assert opened == ["ben", "ana"]


def test_the_models_of_all_users_are_loaded_once(open_pool: OpenPool, home: Home) -> None:
    loaded: list[str] = []
    fetched: list[Collection[str]] = []

    def embedder() -> HashingEmbedder:
        loaded.append("embedder")
        return HashingEmbedder()

    models = Models(home.models, embedder, lambda name: EchoModel(), lambda needs, _: fetched.append(needs))
    pool = open_pool(backend="rag", models=models)

    def work(user: str) -> None:
        with pool.memory(user) as memory:
            memory.remember("monday", "user", FACT)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, ["ana", "ben", "cem", "dia"]))
    assert (loaded, len(fetched)) == (["embedder"], 1)


def test_memories_work_inside_a_model_that_is_given_as_an_object(open_pool: OpenPool) -> None:
    class TinyChatModel(EchoModel):
        name = "one of my own"
        digest = tiny_model().digest
        model = tiny_model().model
        tokenizer = tiny_model().tokenizer

    pool = open_pool(backend="rope_map", model=TinyChatModel())
    with pool.memory("ana") as memory:
        memory.remember("monday", "user", FACT)
        assert memory.stats().items == 1


# Closing


def test_the_least_recently_used_is_closed_when_too_many_are_open(open_pool: OpenPool) -> None:
    pool = open_pool(max_open=2)
    use(pool, "ana", "ben", "ana", "cem")
    assert pool.open_users == ["ana", "cem"]
    with pool.memory("ben") as memory:
        assert memory.journal.user == "ben"
    assert pool.open_users == ["cem", "ben"]


def test_a_memory_in_use_is_never_closed(open_pool: OpenPool) -> None:
    clock = Clock()
    pool = open_pool(max_open=1, idle_seconds=10, clock=clock)
    with pool.memory("ana") as ana, pool.memory("ben") as ben:
        clock.now += 100
        pool.close_idle()
        use(pool, "cem")
        ana.remember("monday", "user", FACT)
        ben.remember("monday", "user", FACT)
        assert pool.open_users == ["ana", "ben"]
    assert len(pool.open_users) == 1


def test_what_is_idle_is_closed_and_opened_again_with_its_turns(open_pool: OpenPool) -> None:
    clock = Clock()
    pool = open_pool(idle_seconds=10, clock=clock)
    with pool.memory("ana") as first:
        first.remember("monday", "user", FACT)
    clock.now += 6
    use(pool, "ben")
    clock.now += 6
    pool.close_idle()
    assert pool.open_users == ["ben"]
    with pool.memory("ana") as second:
        assert second is not first
        assert [item.text for item in second.recall(QUESTION)] == [FACT]


def test_a_thread_of_the_pool_closes_what_is_idle(
    open_pool: OpenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = threading.Event()
    close = Memory.close

    def close_and_tell(memory: Memory) -> None:
        close(memory)
        closed.set()

    monkeypatch.setattr(Memory, "close", close_and_tell)
    pool = open_pool(idle_seconds=0.01)
    use(pool, "ana")
    assert closed.wait(WAIT)


def test_a_closing_that_fails_is_logged_and_hits_no_other_user(
    open_pool: OpenPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(memory: Memory) -> None:
        close(memory)
        if memory.user == "ana":
            raise StorageError("The disk is full.")

    close = Memory.close
    monkeypatch.setattr(Memory, "close", fail)
    pool = open_pool(max_open=1)
    use(pool, "ana", "ben")
    assert [record.getMessage() for record in caplog.records] == [
        "Closing the memory of user 'ana' failed: The disk is full. The next opening reads its turns from the journal."
    ]
    use(pool, "ana")  # opened again
    with pytest.raises(StorageError, match="disk is full"):
        pool.close()


def test_a_closed_pool_has_closed_its_memories_and_says_so(open_pool: OpenPool) -> None:
    threads = set(threading.enumerate())
    with open_pool() as pool, pool.memory("ana") as memory:
        pass
    with pytest.raises(StorageError, match="is closed"):
        memory.recall(QUESTION)
    with pytest.raises(StorageError, match="The pool of memories is closed"), pool.memory("ana"):
        pass
    pool.close()
    assert "memagent-pool" not in {thread.name for thread in set(threading.enumerate()) - threads}


def test_what_is_in_use_when_the_pool_is_closed_is_closed_when_it_is_given_back(open_pool: OpenPool) -> None:
    pool = open_pool()
    with pool.memory("ana") as memory:
        pool.close()
        memory.remember("monday", "user", FACT)
    assert pool.open_users == []
    with pytest.raises(StorageError, match="is closed"):
        memory.recall(QUESTION)


# Errors


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers")
def test_a_caller_who_is_interrupted_while_a_memory_is_closed_leaves_no_trace(
    open_pool: OpenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = open_pool(idle_seconds=1000, clock=(clock := Clock()))
    with pool.memory("ana") as memory:
        close, closing, proceed = memory.close, threading.Event(), threading.Event()

    def close_slowly() -> None:
        closing.set()
        proceed.wait(WAIT)
        close()

    monkeypatch.setattr(memory, "close", close_slowly)
    clock.now += 2000
    with ThreadPoolExecutor(2) as threads:
        closed = threads.submit(pool.close_idle)
        assert closing.wait(WAIT)
        before = signal.signal(signal.SIGALRM, _interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt), pool.memory("ana"):
                pass
        finally:
            signal.signal(signal.SIGALRM, before)
        used = threads.submit(use, pool, "ana")
        time.sleep(0.1)  # it waits for the memory that is being closed
        proceed.set()
        closed.result(WAIT)
        used.result(WAIT)
    assert pool.open_users == ["ana"]


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_an_opening_that_fails_is_tried_again(open_pool: OpenPool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = open_pool(backend="stubborn")
    with pytest.raises(NotFoundError, match="stubborn"):
        use(pool, "ana")
    assert pool.open_users == []
    offer(monkeypatch, Stubborn)
    use(pool, "ana")
    assert pool.open_users == ["ana"]


def test_a_name_that_no_user_can_have_is_refused(open_pool: OpenPool) -> None:
    with pytest.raises(InputError, match="empty"):
        use(open_pool(), " ")


HOLD = """
import sys
from pathlib import Path
from memagent.agent.home import Home
from memagent.agent.memory import Memory

with Memory.open(Home(Path(sys.argv[1]), Path(sys.argv[2])), "ana", "in_memory"):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_another_process_that_has_the_memory_is_named(open_pool: OpenPool, home: Home) -> None:
    pool = open_pool(wait_seconds=0)
    command = [sys.executable, "-c", HOLD, str(home.root), str(home.models)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(BusyError, match=f"in use by process {holder.pid} "):
            use(pool, "ana")
        holder.communicate(timeout=WAIT)
    use(pool, "ana")


@pytest.mark.parametrize("options", [{"max_open": 0}, {"idle_seconds": 0.0}, {"idle_seconds": float("nan")}])
def test_limits_that_cannot_hold_are_refused(open_pool: OpenPool, options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="at least 1 open memory"):
        open_pool(**options)
