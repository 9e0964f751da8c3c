"""PostgreSQL as the journal and a Chroma server as the vectors, killed and started again while memories use them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import httpx
from faults_common import Expected, Ledger, Models, check, sentence

from memagent.agent.home import Home
from memagent.backends.errors import MemagentError

_START_SECONDS = 60.0


class Server(ABC):
    """A server of this machine's own, for one campaign."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def answers(self) -> bool: ...

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it does not.
        """
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"the server does not start; see {self.folder / 'log'}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it and all its processes at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class PostgreSQL(Server):
    """PostgreSQL from a package of the system; it refuses to run as the superuser, so another account runs it then."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        places = [
            *Path("/usr/lib/postgresql").glob("*/bin"),
            *(Path(entry) for entry in os.environ["PATH"].split(os.pathsep)),
        ]
        found = [place for place in places if (place / "initdb").exists() and (place / "pg_isready").exists()]
        if not found:
            raise FileNotFoundError("PostgreSQL is not installed; on Debian: apt-get install postgresql")
        self._bin = found[0]
        self._as = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        self.data = folder / "data"
        if self._as:
            for place in (folder, *folder.parents):
                if place.stat().st_uid == os.getuid() and place != Path("/"):
                    place.chmod(place.stat().st_mode | 0o011)
            shutil.chown(folder, "postgres")
        initdb = [*self._as, str(self._bin / "initdb"), "-D", str(self.data), "-A", "trust", "-U", "memagent"]
        subprocess.run(initdb, check=True, capture_output=True, cwd="/")
        self.url = f"postgresql+psycopg://memagent@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        options = ["-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder)]
        return [*self._as, str(self._bin / "postgres"), *options]

    def answers(self) -> bool:
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def kill(self) -> None:
        pid_file = self.data / "postmaster.pid"
        postmaster = int(pid_file.read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)  # its processes end with it
        super().kill()
        while Path(f"/proc/{postmaster}").exists() or self.answers():
            time.sleep(0.05)
        for left in (pid_file, *self.folder.glob(".s.PGSQL*")):
            left.unlink(missing_ok=True)


class Chroma(Server):
    """A Chroma server."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        chroma = Path(sys.executable).with_name("chroma")
        return [
            str(chroma),
            "run",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--path",
            str(self.folder / "data"),
        ]

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/api/v2/heartbeat", timeout=1.0).is_success
        except httpx.HTTPError:
            return False


def postgres(folder: Path, kills: int, models: Models, *, writers: int = 3) -> dict[str, object]:
    """Let some writers use a journal on a PostgreSQL server that is killed again and again."""
    folder.mkdir(parents=True)
    server = PostgreSQL(_made(folder / "server"))
    home = Home(folder / "home", Path("nowhere"), server.url)
    return _campaign(
        home,
        server,
        kills,
        folder,
        lambda ledger, seed, end: _write(home, models, "in_memory", {}, ledger, seed, end),
        writers,
    )


def chroma(folder: Path, kills: int, models: Models) -> dict[str, object]:
    """Let a memory keep its vectors on a Chroma server that is killed again and again."""
    folder.mkdir(parents=True)
    server = Chroma(_made(folder / "server"))
    home = Home(folder / "home", Path("nowhere"))
    settings = {"url": server.url}
    result = _campaign(
        home,
        server,
        kills,
        folder,
        lambda ledger, seed, end: _write(home, models, "rag", settings, ledger, seed, end),
        1,
    )
    server.start()
    try:
        with models.open(home, "rag", settings=settings) as memory:
            missing = [
                turn.text
                for turn in memory.journal.turns()
                if turn.text not in {item.text for item in memory.recall(turn.text, limit=5)}
            ]
            result["faults"] = [*_list(result["faults"]), *(f"not recalled: {text}" for text in missing)]
    finally:
        server.kill()
    return result


def _campaign(
    home: Home,
    server: Server,
    kills: int,
    folder: Path,
    work: Callable[[Ledger, int, float], None],
    writers: int,
) -> dict[str, object]:
    server.start()
    end = time.monotonic() + kills * 3.0
    children = []
    for number in range(writers):
        child = os.fork()
        if child == 0:
            try:
                work(Ledger(folder / f"{number}.ledger"), number, end)
                os._exit(0)
            except BaseException:  # noqa: BLE001 - the parent process is told by the exit code
                import traceback

                traceback.print_exc()
            finally:
                os._exit(1)
        children.append(child)
    random_ = random.Random(0)
    for _ in range(kills):
        time.sleep(random_.uniform(0.2, 2.0))
        server.kill()
        time.sleep(random_.uniform(0.0, 0.5))
        server.start()
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    expected = Expected.read(sorted(folder.glob("*.ledger")))
    faults = [f"a writer ended with {status}" for status in statuses if status] + check(home, expected)
    server.kill()
    return {
        "kills": kills,
        "acknowledged": len(expected.texts),
        "forgotten": len(expected.forgotten),
        "faults": faults,
    }


def _write(
    home: Home, models: Models, backend: str, settings: dict[str, str], ledger: Ledger, seed: int, end: float
) -> None:
    """Remember, recall and forget until the end; come back whenever the server does."""
    random_ = random.Random(seed)
    own: list[int] = []
    while time.monotonic() < end:
        try:
            with models.open(home, backend, settings=settings, wait_seconds=1.0) as memory:
                while time.monotonic() < end:
                    text = sentence(random_)
                    turn = memory.journal.append(f"s{seed}", "user", text)
                    ledger.note(did="turn", seq=turn.seq, text=text)
                    own.append(turn.seq)
                    memory.recall(text)
                    if random_.random() < 0.2:
                        gone = own.pop(random_.randrange(len(own)))
                        ledger.note(did="try", seqs=[gone])
                        done = memory.forget([gone])
                        ledger.note(did="forgot", seqs=[*done.turns, *done.replies])
        except MemagentError:
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _list(value: object) -> list[str]:
    return list(value) if isinstance(value, list) else []
