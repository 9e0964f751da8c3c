"""Damaged inputs: exports, scenario files, journals, and stored states behind a manifest that vouches for the damage.

Each must be read, or refused with one of memagent's own errors, in bounded time and memory. Every kind runs in forked
processes, a batch each, so that a crash costs a batch and is found.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from faults_common import USER, Models, command_line, forked, sentence

from memagent.agent.evaluation.scenarios import read, suite
from memagent.agent.home import Home
from memagent.agent.journal import Journal, NewAttachment, NewTurn
from memagent.agent.journal.export import export, load
from memagent.agent.journal.proof import Source, prove
from memagent.agent.memory.checkpoint import CheckpointStore
from memagent.backends.errors import MemagentError
from tests.mutation import JSON_TOKENS, YAML_TOKENS, Mutator

BATCH = 200
_SLOW_SECONDS = 20.0
"""Of computing, with that of processes it started; other processes of a busy machine do not count."""
_STALLED_SECONDS = 300.0
"""By the clock."""
_SQLITE_TOKENS = (
    b"SQLite format 3\0",
    b"CREATE TABLE ",
    b"CREATE TRIGGER ",
    b"\x0d\0\0\0",
    b"\x05\0\0\0",
    b"\xff" * 9,
)


@dataclass
class Tally:
    """What became of a kind's inputs."""

    kind: str
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def in_batches(
    kind: str, count: int, try_one: Callable[[Path, int], str], folder: Path, batch: int = BATCH
) -> Iterator[Tally]:
    """Try so many inputs, a batch in a forked process, and yield the tally after each batch.

    Args:
        try_one: tries the input of a number in a folder, and returns what became of it; an error of memagent's is one
            outcome, any other error a fault.
    """
    tally = Tally(kind)
    numbers = iter(range(count))
    while batch_numbers := list(islice(numbers, batch)):
        place = folder / f"{kind}-{batch_numbers[0]}"
        place.mkdir(parents=True)
        report = place / "report"

        def work(
            batch_numbers: Sequence[int] = batch_numbers, place: Path = place, report: Path = report
        ) -> None:
            with report.open("w", buffering=1) as lines:
                for number in batch_numbers:
                    lines.write(f"{number} ")
                    began, computed = time.monotonic(), _computed_seconds()
                    try:
                        outcome = try_one(place, number)
                    except MemagentError as error:
                        outcome = type(error).__name__
                    except Exception as error:  # noqa: BLE001 - it is what is looked for
                        outcome = f"FAULT {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    seconds, computed = time.monotonic() - began, _computed_seconds() - computed
                    if computed > _SLOW_SECONDS or seconds > _STALLED_SECONDS:
                        outcome = f"FAULT took {seconds:.0f} s, {computed:.0f} s of them computing"
                    lines.write(f"{outcome}\n")

        status = forked(work)
        for line in report.read_text().splitlines():
            number, _, outcome = line.partition(" ")
            if outcome.startswith("FAULT") or not outcome:
                tally.faults.append(f"{kind} {number}: {outcome or f'the process ended with {status}'}")
            else:
                tally.outcomes[outcome] += 1
        shutil.rmtree(place)
        yield tally


def _computed_seconds() -> float:
    """Return the processor time of this process and of its ended children."""
    return sum(os.times()[:4])


def imports(count: int, folder: Path, seed: int) -> Iterator[Tally]:
    """Mutated exports of both formats; what is still whole is imported into a journal."""
    originals = [content for content in _exports(folder)]
    mutator = Mutator(originals, seed, JSON_TOKENS)

    def try_one(place: Path, number: int) -> str:
        source = Source(f"mutation {number}", io.BytesIO(mutator.mutation(number)))
        prove(source)
        with Journal(place / "journal.sqlite3", USER) as journal:
            load(journal, source)
            if number % 20 == 0:
                _own_export_is_whole(journal)
        return "imported"

    yield from in_batches("import", count, try_one, folder)


def _own_export_is_whole(journal: Journal) -> None:
    text = io.StringIO()
    export(journal, text)
    prove(Source("own export", io.BytesIO(text.getvalue().encode())))
    faults = journal.audit()
    if faults:
        raise AssertionError(faults[0])


def _exports(folder: Path) -> Iterator[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(folder / "original.sqlite3", USER) as journal:
        _fill(journal)
        text = io.StringIO()
        export(journal, text)
    yield text.getvalue().encode()
    rows = [json.loads(line) for line in text.getvalue().splitlines()]
    for row in rows:  # format 1, as people may write it: no chain is in the way of what comes after it
        row.pop("salt", None)
        row.pop("leaf", None)
    rows[0]["format"] = 1
    yield "".join(json.dumps(row) + "\n" for row in rows if row["kind"] != "end").encode()


def _fill(journal: Journal) -> None:
    random_ = random.Random(0)
    for place in range(8):
        attachments = [NewAttachment("image/png", random_.randbytes(40))] * (place % 3)
        question = journal.append(
            f"s{place % 3}",
            "user",
            sentence(random_),
            speaker="Ana" if place % 2 else None,
            attachments=attachments,
        )
        is_derived = bool(place % 2)
        journal.append(
            f"s{place % 3}",
            "assistant",
            sentence(random_),
            in_view=(question.seq,),
            derived=is_derived,
            recalled=(question.seq,) if is_derived else (),
        )
    journal.forget([3, 8])


def scenarios(count: int, folder: Path, seed: int) -> Iterator[Tally]:
    """Mutated scenario files, read as ``memagent scenario check`` reads them."""
    mutator = Mutator([path.read_bytes() for path in suite()], seed, YAML_TOKENS)

    def try_one(place: Path, number: int) -> str:
        file = place / "mutated.recall.yaml"
        file.write_bytes(mutator.mutation(number))
        read(file)
        return "read"

    yield from in_batches("scenario", count, try_one, folder)


def journals(count: int, folder: Path, seed: int) -> Iterator[Tally]:
    """Mutated database files, opened as if nothing were known of them, read, proved and written to."""
    folder.mkdir(parents=True, exist_ok=True)
    original = folder / "whole.sqlite3"
    with Journal(original, USER) as journal:
        journal.extend([NewTurn("s", "user", f"turn {number} " * 12) for number in range(40)])
        _fill(journal)
    mutator = Mutator([original.read_bytes()], seed, _SQLITE_TOKENS)

    def try_one(place: Path, number: int) -> str:
        file = place / "journal.sqlite3"
        for path in place.glob("journal.sqlite3*"):
            path.unlink()
        file.write_bytes(mutator.mutation(number))
        with Journal(file, USER) as journal:
            faults = journal.audit()
            outcome = "found damaged by the audit" if faults else "whole to the audit"
            list(journal.turns())
            journal.sessions()
            journal.forgettings()
            journal.append("s", "user", "hello")
            journal.forget([1])
        return outcome

    yield from in_batches("journal", count, try_one, folder)


def checkpoints(
    count: int, folder: Path, seed: int, models: Models, backends: Sequence[str]
) -> Iterator[Tally]:
    """Stored states with a mutated file and a manifest signed anew, used as if they were whole."""
    for backend in backends:
        ready = Home(folder / f"ready-{backend}", Path("nowhere"))
        forked(lambda home=ready, name=backend: _store(home, name, models))  # type: ignore[misc]
        found = CheckpointStore(ready.backend_folder(USER, backend)).read()
        if found is None or not found.files:
            continue
        contents = {path: (found.directory / path).read_bytes() for path in sorted(found.files)}
        paths = [path for path, content in contents.items() if content]

        def try_one(
            place: Path,
            number: int,
            ready: Home = ready,
            name: str = backend,
            paths: Sequence[str] = paths,
            contents: dict[str, bytes] = contents,
        ) -> str:
            home = Home(place / "home", ready.models)
            shutil.rmtree(home.root, ignore_errors=True)
            shutil.copytree(ready.root, home.root)
            path = paths[number % len(paths)]
            _replace_signed(home, name, path, Mutator([contents[path]], seed, JSON_TOKENS).mutation(number))
            return _use(home, name, models)

        yield from in_batches(f"checkpoint of {backend}", count // len(backends), try_one, folder, batch=10)


def _store(home: Home, backend: str, models: Models) -> None:
    with models.open(home, backend) as memory:
        random_ = random.Random(1)
        for place in range(12):
            memory.remember(f"s{place % 2}", "user", sentence(random_))
        memory.remember("s", "user", "My dog is called Biscuit.")
        memory.checkpoint()


def _replace_signed(home: Home, backend: str, path: str, content: bytes) -> None:
    """Put other content into a stored state, with a manifest and a pointer that vouch for it."""
    folder = home.backend_folder(USER, backend)
    name = (folder / "CURRENT").read_text().split()[0]
    file = folder / name / path
    file.unlink()
    file.write_bytes(content)
    manifest = json.loads((folder / name / "manifest.json").read_bytes())
    manifest["files"][path] = hashlib.sha256(content).hexdigest()
    signed = json.dumps(manifest, indent=1, sort_keys=True).encode()
    (folder / name / "manifest.json").write_bytes(signed)
    (folder / "CURRENT").write_text(f"{name} {hashlib.sha256(signed).hexdigest()}")


def _use(home: Home, backend: str, models: Models) -> str:
    notices: list[str] = []
    with models.open(home, backend, notify=notices.append) as memory:
        memory.recall("What is my dog called?")
        turn = memory.remember("t", "user", "The dog likes the sea.")
        memory.recall("What does the dog like?", limit=20)
        memory.forget([turn.seq, 1])
        memory.stats()
        memory.checkpoint()
        faults = memory.journal.audit()
    if faults:
        raise AssertionError(faults[0])
    return "rebuilt" if notices else "used"


def commands(count: int, folder: Path, seed: int, models: Models) -> Iterator[Tally]:
    """The same four kinds through the command line: exit code 0 or 1, no traceback, bounded memory."""
    folder.mkdir(parents=True, exist_ok=True)
    exports = Mutator(list(_exports(folder)), seed, JSON_TOKENS)
    files = Mutator([path.read_bytes() for path in suite()], seed, YAML_TOKENS)
    ready = Home(folder / "ready", Path("nowhere"))
    forked(lambda: _store(ready, "in_memory", models))
    whole = ready.journal_file(USER).read_bytes()
    databases = Mutator([whole], seed, _SQLITE_TOKENS)
    found = CheckpointStore(ready.backend_folder(USER, "in_memory")).read()
    states = Mutator([(found.directory / "turns.json").read_bytes() if found else b""], seed, JSON_TOKENS)

    def run(place: Path, *arguments: str) -> str:
        err = place / "err"

        def command() -> None:
            os.environ["MEMAGENT_HOME"] = str(place / "home")
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(place / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
            command_line(*arguments)

        code = os.waitstatus_to_exitcode(forked(command))
        if code not in (0, 1) or "Traceback" in err.read_text(errors="replace"):
            raise AssertionError(
                f"memagent {' '.join(arguments)}: exit code {code}: {err.read_text(errors='replace')[-300:]}"
            )
        return f"exit code {code}"

    def with_home(place: Path) -> Home:
        home = Home(place / "home", Path("nowhere"))
        shutil.rmtree(home.root, ignore_errors=True)
        shutil.copytree(ready.root, home.root)
        return home

    def import_(place: Path, number: int) -> str:
        with_home(place)
        (place / "export.jsonl").write_bytes(exports.mutation(number))
        return run(place, "import", str(place / "export.jsonl"), "-b", "in_memory")

    def scenario(place: Path, number: int) -> str:
        (place / "x.recall.yaml").write_bytes(files.mutation(number))
        return run(place, "scenario", "check", str(place / "x.recall.yaml"))

    def journal(place: Path, number: int) -> str:
        home = with_home(place)
        for path in home.user_folder(USER).glob("journal.sqlite3*"):
            path.unlink()
        home.journal_file(USER).write_bytes(databases.mutation(number))
        command = (
            ("doctor",),
            ("recall", "dog", "-b", "in_memory"),
            ("remember", "hello", "-b", "in_memory"),
        )
        return run(place, *command[number % 3])

    def checkpoint(place: Path, number: int) -> str:
        _replace_signed(with_home(place), "in_memory", "turns.json", states.mutation(number))
        return run(place, "recall", "dog", "-b", "in_memory")

    for name, try_one in (
        ("import", import_),
        ("scenario", scenario),
        ("journal", journal),
        ("checkpoint", checkpoint),
    ):
        yield from in_batches(f"command line, {name}", count, try_one, folder, batch=10)
