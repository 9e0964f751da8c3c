"""A memory used and closed from any thread, and read beside the process that writes."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from memagent.agent.engine.agent import Agent
from memagent.agent.engine.conversation import Conversation
from memagent.agent.engine.events import Token
from memagent.agent.home import Home
from memagent.agent.memory.checkpoint import CheckpointStore
from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.fakes import EchoModel
from memagent.backends import registry
from memagent.backends.errors import StorageError
from memagent.backends.in_memory import InMemory
from memagent.backends.records import Hit
from tests.agent.memories import FACT, offer, store_of
from tests.conftest import OpenMemory

QUESTION = "What is my dog called?"
BACKENDS = [name for name in registry.names() if "local_model" not in registry.get(name).needs]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


Result = TypeVar("Result")


def in_a_thread(call: Callable[[], Result]) -> Result:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(timeout=60)


@each_backend
def test_a_memory_is_used_and_closed_from_other_threads(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    in_a_thread(lambda: memory.remember("monday", "user", FACT))
    recollections = in_a_thread(lambda: memory.recall(QUESTION))
    assert [item.text for item in recollections] == ([] if backend == "none" else [FACT])
    in_a_thread(memory.checkpoint)
    in_a_thread(memory.stats)
    assert in_a_thread(lambda: memory.forget([1])).turns == (1,)
    in_a_thread(memory.rebuild)
    in_a_thread(memory.close)
    open_memory(backend=backend, wait_seconds=0)  # the lock is free


@each_backend
def test_many_threads_at_once_lose_nothing(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)

    def work(number: int) -> None:
        for place in range(5):
            memory.remember(f"thread {number}", "user", f"The dog of thread {number} has ball {place}.")
            memory.recall("dog ball")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert memory.journal.count() == 30
    assert memory.position.seq == 30
    assert memory.journal.audit() == []
    assert memory.stats().items == (0 if backend == "none" else 30)


def test_an_agent_answers_from_asyncio_threads(home: Home) -> None:
    async def talk() -> list[str]:
        with Agent.open(user="ana", backend="rag", model=EchoModel(), home=home) as agent:
            await asyncio.to_thread(agent.ask, FACT, session="monday")
            replies = await asyncio.gather(
                *(asyncio.to_thread(agent.ask, QUESTION, session=f"s{place}") for place in range(4))
            )
            assert agent.memory.journal.count() == 10
            await asyncio.to_thread(agent.close)
        return [reply.text for reply in replies]

    assert all("Biscuit" in text for text in asyncio.run(talk()))


def test_a_second_caller_waits_for_the_first(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = 0
    most = 0

    class Slow(InMemory):
        def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1
            return []

    offer(monkeypatch, Slow)
    memory = open_memory()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: memory.recall("dog"), range(8)))
    assert most == 1


def test_a_reply_in_progress_lets_others_use_the_memory(open_memory: OpenMemory) -> None:
    class Waiting(EchoModel):
        """Speaks its second word when somebody else has used the memory."""

        used = threading.Event()

        def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
            yield "one "
            assert self.used.wait(20)
            yield "two"

    memory, model = open_memory(), Waiting()
    tokens: list[str] = []

    def use() -> None:
        memory.remember("tuesday", "user", FACT)
        memory.recall(QUESTION)
        model.used.set()

    for event in Conversation(memory, model, "monday").send("hello"):
        if isinstance(event, Token):
            tokens.append(event.text)
            if len(tokens) == 1:
                threading.Thread(target=use).start()
    assert tokens == ["one ", "two"]
    assert memory.journal.count() == 3


def test_a_message_is_kept_when_memory_fails(
    open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(InMemory):
        def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
            raise StorageError("The store failed.")

    offer(monkeypatch, Broken)
    memory = open_memory()
    with pytest.raises(StorageError, match="The store failed"):
        list(Conversation(memory, EchoModel(), "monday").send("typed once"))
    assert [turn.text for turn in memory.journal.turns()] == ["typed once"]


def test_a_closed_memory_says_so(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.close()
    for use in (
        lambda: memory.recall("dog"),
        lambda: memory.remember("monday", "user", FACT),
        memory.checkpoint,
    ):
        with pytest.raises(StorageError, match="closed"):
            use()


# reading


@each_backend
def test_readers_see_everything_beside_a_writer_and_store_nothing(
    backend: str, home: Home, open_memory: OpenMemory
) -> None:
    memory = open_memory(backend=backend)
    memory.remember("monday", "user", FACT)
    memory.checkpoint()
    memory.remember("monday", "user", "The dog called Crumb is old.")
    stored = store_of(home, backend).current()
    with open_memory(backend=backend, read_only=True) as reader:
        expected_texts = {item.text for item in memory.recall(QUESTION)}
        assert {item.text for item in reader.recall(QUESTION)} == expected_texts
        assert reader.stats().items == memory.stats().items
        for change in (
            lambda: reader.remember("monday", "user", "no"),
            lambda: reader.forget([1]),
            reader.checkpoint,
            reader.rebuild,
            reader.consolidate,
        ):
            with pytest.raises(StorageError, match="reading only"):
                change()
        memory.remember("monday", "user", "My dog is called Max now.")
        memory.forget([1])
        assert FACT not in {item.text for item in reader.recall(QUESTION)}
        assert reader.position == memory.position
    assert store_of(home, backend).current() != stored  # by the writer's forgetting
    assert not list((home.backend_folder("ana", backend) / "readers").iterdir())


def test_a_reader_of_a_damaged_state_reads_the_journal_and_leaves_the_state(
    home: Home, open_memory: OpenMemory, notices: list[str]
) -> None:
    with open_memory() as memory:
        memory.remember("monday", "user", FACT)
        memory.checkpoint()
    state = next(home.backend_folder("ana", "in_memory").glob("*/turns.json"))
    state.write_bytes(state.read_bytes() + b" ")
    with open_memory(read_only=True, notify=notices.append) as reader:
        assert [item.text for item in reader.recall(QUESTION)] == [FACT]
    assert "not usable" in notices[0]
    assert state.exists()


def test_a_reader_starts_over_when_the_state_is_replaced_under_it(
    home: Home, open_memory: OpenMemory, monkeypatch: pytest.MonkeyPatch, notices: list[str]
) -> None:
    memory = open_memory()
    memory.remember("monday", "user", FACT)
    memory.checkpoint()
    read = CheckpointStore.read
    replaced = False

    def replaced_meanwhile(store: CheckpointStore) -> object:
        nonlocal replaced
        checkpoint = read(store)
        if not replaced:
            replaced = True
            memory.checkpoint()
        return checkpoint

    monkeypatch.setattr(CheckpointStore, "read", replaced_meanwhile)
    with open_memory(read_only=True, notify=notices.append) as reader:
        assert [item.text for item in reader.recall(QUESTION)] == [FACT]
    assert replaced
    assert notices == []


READ = """
import sys
from pathlib import Path
from memagent.agent.home import Home
from memagent.agent.memory import Memory, open_journal
from memagent.agent.models.embedding import HashingEmbedder
from memagent.agent.journal.export import export

home = Home(Path(sys.argv[1]), Path(sys.argv[2]))
with Memory.open(home, "ana", sys.argv[3], read_only=True, make_embedder=HashingEmbedder) as memory:
    print([item.text for item in memory.recall("What is my dog called?")])
    memory.stats()
with open_journal(home, "ana", read_only=True) as journal:
    export(journal, sys.stdout)
    journal.sessions()
try:
    (home.root / "written").touch()
except OSError:
    print("nothing can be written")
"""
# The superuser writes whatever the modes say; a mount that is read-only for this process alone holds.
MOUNT = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


@contextmanager
def nothing_writable(root: Path) -> Iterator[list[str]]:
    """Let nothing below a folder be written by the command that the words given stand before."""
    if os.getuid() != 0:
        modes = {path: path.stat().st_mode for path in [root, *root.rglob("*")]}
        for path in reversed(modes):
            path.chmod(0o500 if path.is_dir() else 0o400)
        yield []
        for path, mode in modes.items():
            path.chmod(mode)
        return
    words = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", str(root)]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("this superuser may not mount")
    yield words


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX modes")
@pytest.mark.parametrize("backend", ["in_memory", "rag"])
@pytest.mark.parametrize("log", [False, True], ids=["closed", "with a log"])
def test_a_place_that_cannot_be_written_can_be_read(
    home: Home, open_memory: OpenMemory, backend: str, log: bool
) -> None:
    memory = open_memory(backend=backend)
    memory.remember("monday", "user", "something else")
    memory.checkpoint()
    memory.remember("monday", "user", FACT)
    if not log:
        memory.close()
    assert (home.user_folder("ana") / "journal.sqlite3-wal").exists() == log
    with nothing_writable(home.root) as words:
        command = [*words, sys.executable, "-c", READ, str(home.root), str(home.models), backend]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert (first, last) == (f"['{FACT}']", "nothing can be written")
