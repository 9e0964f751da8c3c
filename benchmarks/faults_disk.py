"""A disk that is full or failing: writes that fail or are cut short, syncs, renames and removals with I/O errors.

libfiu's preload library (Debian: fiu-utils) makes system calls fail; memagent knows nothing of it. Faults are switched on
in a forked process once everything is imported, so that they meet memagent's own files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import subprocess
import sys
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from faults_common import USER, Expected, Ledger, Models, check, forked, leaks, sentence

from memagent.agent.home import Home
from memagent.agent.memory import Memory, open_journal
from memagent.backends.errors import MemagentError

# What fails, with which error and how often.
CALLS = {
    "no space": (["posix/io/rw/write", "posix/io/rw/pwrite"], errno.ENOSPC, 0.05),
    "short writes": (["posix/io/rw/write/reduce", "posix/io/rw/pwrite/reduce"], errno.ENOSPC, 0.2),
    "failing syncs": (["posix/io/sync/fsync", "posix/io/sync/fdatasync"], errno.EIO, 0.1),
    "failing reads": (["posix/io/rw/pread"], errno.EIO, 0.02),
    "failing renames": (["posix/io/dir/rename"], errno.EIO, 0.3),
    "failing removals": (["posix/io/dir/unlink"], errno.EIO, 0.1),
}
FULL = "full disk"
KINDS = [FULL, *CALLS]
# Chroma's threads wake each other by writing, into no file; a failing write stops them for ever.
NOT_OF_CHROMA = ("no space", "short writes")
_STEPS = 12
_DISK_MB = 48
_MOST_FREE = 400_000


class Disk(ABC):
    """A disk that fails while it is told to."""

    @abstractmethod
    def switch(self, failing: bool) -> None: ...

    @contextmanager
    def failing(self) -> Iterator[None]:
        self.switch(True)
        try:
            yield
        finally:
            self.switch(False)

    @contextmanager
    def working(self) -> Iterator[None]:
        """While it fails otherwise: for notes of our own."""
        self.switch(False)
        try:
            yield
        finally:
            self.switch(True)


class FailingCalls(Disk):
    """System calls of one kind fail by chance."""

    def __init__(self, kind: str) -> None:
        self._names, self._error, self._probability = CALLS[kind]
        self._fiu = ctypes.CDLL("libfiu.so.0")

    def switch(self, failing: bool) -> None:
        for name in self._names:
            if failing:
                self._fiu.fiu_enable_random(
                    name.encode(), 1, ctypes.c_void_p(self._error), 0, ctypes.c_float(self._probability)
                )
            else:
                self._fiu.fiu_disable(name.encode())


class FullDisk(Disk):
    """A disk of its own (tmpfs) on which another file leaves almost no room."""

    def __init__(self, folder: Path, random_: random.Random) -> None:
        self._filler = folder / "filler"
        self._random = random_

    def switch(self, failing: bool) -> None:
        self._filler.unlink(missing_ok=True)
        if failing:
            room = shutil.disk_usage(self._filler.parent).free - self._random.randint(0, _MOST_FREE)
            with self._filler.open("wb") as file, suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(room, 1))


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk on a folder for the time being; False where that is not allowed."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)  # noqa: S607 - as mount


def run_under_fiu() -> None:
    """Start this program again with libfiu preloaded, unless it is.

    Raises:
        SystemExit: fiu-run is not installed.
    """
    if "fiu_posix_preload" in os.environ.get("LD_PRELOAD", ""):
        return
    if shutil.which("fiu-run") is None:
        raise SystemExit("fiu-run is not installed; on Debian: apt-get install fiu-utils")
    os.execvp("fiu-run", ["fiu-run", "-x", "-f", "", sys.executable, *sys.argv])  # noqa: S606, S607 - it replaces us; found on the path above


class Round:
    """Some minutes of a memory's life on a failing disk, and what is there when the disk works again.

    Args:
        folder: an empty folder.
    """

    def __init__(
        self, folder: Path, kind: str, backend: str, seed: int, models: Models, model_folder: Path
    ) -> None:
        self.disk_folder = folder / "disk"
        self.home = Home(self.disk_folder / "home", model_folder)
        self.file = folder / "ledger"
        self.report = folder / "report"
        self.kind = kind
        self.backend = backend
        self.random = random.Random(seed)
        self.models = models
        self.done: Counter[str] = Counter()
        self.faults: list[str] = []

    def run(self) -> tuple[Counter[str], list[str]]:
        """Return how often what was done or refused, and every fault."""
        with small_disk(self.disk_folder) as mounted:
            if self.kind == FULL and not mounted:
                return Counter({"not allowed to mount": 1}), []
            status = forked(self._live)
            self.faults += [f"it ended with {status}"] if status else []
            for line in self.report.read_text().splitlines() if self.report.exists() else ():
                what, _, message = line.partition(" ")
                if what == "fault":
                    self.faults.append(message)
                else:
                    self.done[message] += 1
            after = self.report.with_suffix(".after")
            if forked(lambda: self._look(after)):
                self.faults.append("the examination afterwards failed")
            self.faults += after.read_text().splitlines() if after.exists() else []
        return self.done, [f"{self.kind}, {self.backend}: {fault}" for fault in self.faults]

    def _live(self) -> None:
        self.ledger, self.own = Ledger(self.file), list[int]()
        self.disk = FullDisk(self.disk_folder, self.random) if self.kind == FULL else FailingCalls(self.kind)
        with self.models.open(self.home, self.backend) as memory:
            self.ledger.note(did="turn", seq=memory.remember("s", "user", "first").seq, text="first")
        for _ in range(_STEPS):
            try:
                with self.disk.failing(), self.models.open(self.home, self.backend) as memory:
                    for _ in range(3):
                        self.random.choice((self._remember, self._remember, self._forget, self._store))(
                            memory
                        )
                self._report("done", "opened")
            except MemagentError as error:
                self._report("refused", type(error).__name__)
            except Exception as error:  # noqa: BLE001 - any other error is what is looked for
                self._report("fault", f"{type(error).__name__}: {error}")
                traceback.print_exc()

    def _remember(self, memory: Memory) -> None:
        text = sentence(self.random)
        turn = memory.journal.append("s", "user", text)
        self.ledger_note(did="turn", seq=turn.seq, text=text)
        self.own.append(turn.seq)
        memory.catch_up()

    def _forget(self, memory: Memory) -> None:
        seqs = self.random.sample(self.own, min(2, len(self.own)))
        self.ledger_note(did="try", seqs=seqs)
        try:
            done = memory.forget(seqs)
        except MemagentError as error:
            if "nothing of this step was stored" in str(error).lower():
                self._check_still_there(seqs, str(error))
            raise
        self.ledger_note(did="forgot", seqs=[*done.turns, *done.replies])
        self.own = [seq for seq in self.own if seq not in done.turns]

    def _check_still_there(self, seqs: list[int], message: str) -> None:
        """What is said to have changed nothing has changed nothing."""
        with self.disk.working(), open_journal(self.home, USER, read_only=True) as journal:
            here = {turn.seq for turn in journal.get(seqs)}
        gone = [seq for seq in seqs if seq not in here and seq in self.own]
        if gone:
            with self.disk.working():
                self._report("fault", f"{gone} are forgotten though it was said: {message}")

    def _store(self, memory: Memory) -> None:
        self.random.choice((memory.checkpoint, memory.consolidate, memory.rebuild))()

    def ledger_note(self, **fields: object) -> None:
        with self.disk.working():
            self.ledger.note(**fields)

    def _report(self, what: str, message: str) -> None:
        with self.report.open("a") as report:
            print(what, " ".join(message.split()), file=report)

    def _look(self, report: Path) -> None:
        expected = Expected.read([self.file])
        with self.models.open(self.home, self.backend) as memory:
            faults = [f"remains: {one}" for one in memory.finish_forgetting()]
            kept = {turn.seq: turn.text for turn in memory.journal.turns()}
        gone = [text for seq, text in expected.texts.items() if seq not in kept]
        faults += check(self.home, expected) + leaks(self.home.root, gone, kept.values())
        report.write_text("\n".join(faults))
