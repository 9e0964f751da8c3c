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
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults_common import USER, Expected, Ledger, Models, check, forked, leaks, sentence

from memagent.agent.home import Home
from memagent.agent.memory import Memory, open_journal
from memagent.backends.errors import MemagentError

# What fails, with which error and how often.
KINDS = {
    "no space": (["posix/io/rw/write", "posix/io/rw/pwrite"], errno.ENOSPC, 0.05),
    "short writes": (["posix/io/rw/write/reduce", "posix/io/rw/pwrite/reduce"], errno.ENOSPC, 0.2),
    "failing syncs": (["posix/io/sync/fsync", "posix/io/sync/fdatasync"], errno.EIO, 0.1),
    "failing reads": (["posix/io/rw/pread"], errno.EIO, 0.02),
    "failing renames": (["posix/io/dir/rename"], errno.EIO, 0.3),
    "failing removals": (["posix/io/dir/unlink"], errno.EIO, 0.1),
}
_STEPS = 12


class Disk:
    """The faults of one kind, on and off."""

    def __init__(self, kind: str) -> None:
        self._names, self._error, self._probability = KINDS[kind]
        self._fiu = ctypes.CDLL("libfiu.so.0")

    @contextmanager
    def failing(self) -> Iterator[None]:
        self._switch_on()
        try:
            yield
        finally:
            self._switch_off()

    @contextmanager
    def working(self) -> Iterator[None]:
        """While it fails otherwise: for notes of our own."""
        self._switch_off()
        try:
            yield
        finally:
            self._switch_on()

    def _switch_on(self) -> None:
        for name in self._names:
            self._fiu.fiu_enable_random(
                name.encode(), 1, ctypes.c_void_p(self._error), 0, ctypes.c_float(self._probability)
            )

    def _switch_off(self) -> None:
        for name in self._names:
            self._fiu.fiu_disable(name.encode())


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
        self.home = Home(folder / "home", model_folder)
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
        status = forked(self._live)
        self.faults += [f"it ended with {status}"] if status else []
        for line in self.report.read_text().splitlines() if self.report.exists() else ():
            what, _, said = line.partition(" ")
            if what == "fault":
                self.faults.append(said)
            else:
                self.done[said] += 1
        if forked(self._look):
            self.faults.append("the examination afterwards failed")
        self.faults += (self.report.with_suffix(".after").read_text() or "").splitlines()
        return self.done, [f"{self.kind}, {self.backend}: {fault}" for fault in self.faults]

    def _live(self) -> None:
        self.ledger, self.disk, self.own = Ledger(self.file), Disk(self.kind), list[int]()
        with self.models.open(self.home, self.backend) as memory:
            self.ledger.note(did="turn", seq=memory.remember("s", "user", "first").seq, text="first")
        for _ in range(_STEPS):
            with self.report.open("a") as report:
                try:
                    with self.disk.failing(), self.models.open(self.home, self.backend) as memory:
                        for _ in range(3):
                            self.random.choice((self._remember, self._remember, self._forget, self._store))(
                                memory
                            )
                    print("done", "opened", file=report)
                except MemagentError as error:
                    print("refused", type(error).__name__, file=report)
                except Exception as error:  # noqa: BLE001 - any other error is what is looked for
                    print("fault", f"{type(error).__name__}: {error}".replace("\n", " "), file=report)

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
            with self.disk.working(), self.report.open("a") as report:
                print("fault", f"{gone} are forgotten though it was said: {message}", file=report)

    def _store(self, memory: Memory) -> None:
        self.random.choice((memory.checkpoint, memory.consolidate, memory.rebuild))()

    def ledger_note(self, **fields: object) -> None:
        with self.disk.working():
            self.ledger.note(**fields)

    def _look(self) -> None:
        expected = Expected.read([self.file])
        with self.models.open(self.home, self.backend) as memory:
            faults = [f"remains: {one}" for one in memory.finish_forgetting()]
            kept = {turn.seq: turn.text for turn in memory.journal.turns()}
        gone = [text for seq, text in expected.texts.items() if seq not in kept]
        faults += check(self.home, expected) + leaks(self.home.root, gone, kept.values())
        self.report.with_suffix(".after").write_text("\n".join(faults))
