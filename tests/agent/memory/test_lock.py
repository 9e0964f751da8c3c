"""One writer per backend: who waits is told for whom, and a dead holder holds nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memagent.agent.memory.lock import BackendLock
from memagent.backends.errors import BusyError

HOLDER = """
import sys
from pathlib import Path
from memagent.agent.memory.lock import BackendLock

lock = BackendLock(Path(sys.argv[1]), "The rag memory")
lock.acquire()
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""

StartHolder = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backend"


@pytest.fixture
def start_holder(folder: Path) -> Iterator[StartHolder]:
    """Start a process that takes the lock, and lets go of it on a line of input."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        return holder

    yield start
    for holder in started:
        holder.kill()
        holder.communicate()


def lock_of(folder: Path) -> BackendLock:
    return BackendLock(folder, "The rag memory")


def test_who_waits_is_told_the_holder(folder: Path, start_holder: StartHolder) -> None:
    holder = start_holder()
    lock = lock_of(folder)
    began = time.monotonic()
    with pytest.raises(BusyError, match=rf"The rag memory is in use by process {holder.pid} \(.+\) since 20"):
        lock.acquire(wait_seconds=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    assert f"process {holder.pid} " in lock.holder()


def test_who_waits_gets_the_lock_once_it_is_free(folder: Path, start_holder: StartHolder) -> None:
    holder = start_holder()
    assert holder.stdin is not None

    def let_go() -> None:
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()

    timer = threading.Timer(0.2, let_go)
    timer.start()
    lock = lock_of(folder)
    lock.acquire(wait_seconds=20)
    timer.join()
    assert f"process {os.getpid()} " in lock.holder()
    lock.release()


def test_a_killed_holder_frees_the_lock(folder: Path, start_holder: StartHolder) -> None:
    holder = start_holder()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = lock_of(folder)
    assert f"process {holder.pid} " in lock.holder()
    lock.acquire(wait_seconds=2)
    assert f"process {os.getpid()} " in lock.holder()
    lock.release()


def test_the_lock_can_be_taken_again_and_again(folder: Path) -> None:
    lock = lock_of(folder)
    for _ in range(3):
        lock.acquire(wait_seconds=0)
        with pytest.raises(BusyError):
            lock_of(folder).acquire(wait_seconds=0)
        lock.release()
    lock_of(folder).acquire(wait_seconds=0)


def test_releasing_what_is_not_held_leaves_the_holder_alone(folder: Path) -> None:
    lock, other = lock_of(folder), lock_of(folder)
    lock.acquire(wait_seconds=0)
    other.release()
    assert f"process {os.getpid()} " in other.holder()
    with pytest.raises(BusyError):
        other.acquire(wait_seconds=0)
    lock.release()
    lock.release()
    other.acquire(wait_seconds=0)
    other.release()


def test_different_folders_do_not_wait_for_each_other(tmp_path: Path) -> None:
    locks = [lock_of(tmp_path / name) for name in ("rag", "in_memory")]
    for lock in locks:
        lock.acquire(wait_seconds=0)
    for lock in locks:
        lock.release()
    assert not list(tmp_path.rglob("holder.json"))


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b'{"pid": 1}'])
def test_an_unknown_holder_is_another_process(content: bytes | None, folder: Path) -> None:
    lock = lock_of(folder)
    lock.acquire(wait_seconds=0)
    (folder / "holder.json").unlink()
    if content is not None:
        (folder / "holder.json").write_bytes(content)
    with pytest.raises(BusyError, match="in use by another process"):
        lock_of(folder).acquire(wait_seconds=0)
    lock.release()


def test_the_lock_is_released_from_another_thread_too(folder: Path) -> None:
    lock = lock_of(folder)
    lock.acquire(wait_seconds=0)
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    lock_of(folder).acquire(wait_seconds=0)
