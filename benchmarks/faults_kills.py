"""Kills at every commit, sync, rename and removal of what memagent does, and what is there afterwards.

The hooks are patched in from outside: memagent has no failpoints. A dry run counts the points of an operation; then the
operation is run again and again in a forked process that kills itself at one of them, and the home is examined by
another process.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from faults_common import USER, Expected, Ledger, Models, check, forked, leaks, sentence
from sqlalchemy.engine.default import DefaultDialect

from memagent.agent.home import Home
from memagent.agent.journal import Journal, JournalReader, NewTurn
from memagent.agent.journal.export import export, load, open_source, prove
from memagent.agent.journal.item_index import outdated_seqs, read_entries, read_items
from memagent.agent.journal.items import NewItem
from memagent.agent.memory import Memory, open_journal

BESIDE = "in_memory"
"""A second stored memory, so that forgetting has two to clear."""
NAMESPACE = ("notes",)
"""Of the items that are put."""


class Killer:
    """Counts the points at which a crash could tear something apart, and kills the process at one of them.

    Args:
        at: the point to die at, from 1; 0 only counts.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def point(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Patch commits, syncs, renames and removals, with a point before and one after each."""
        for module, name in (
            (os, "fsync"),
            (os, "replace"),
            (os, "rename"),
            (os, "unlink"),
            (os, "rmdir"),
            (os, "link"),
            (os, "pwrite"),
            (DefaultDialect, "do_commit"),
        ):
            setattr(module, name, self._around(getattr(module, name)))

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(*arguments: Any, **options: Any) -> Any:
            self.point()
            result = call(*arguments, **options)
            self.point()
            return result

        return hooked


@dataclass(frozen=True)
class Operation:
    """Something memagent does.

    Attributes:
        prepare: makes the home it is done to, noting what is acknowledged.
        run: does it, noting what it tries and what is acknowledged.
        of_backends: it is done to a backend; False: to the journal alone.
    """

    name: str
    prepare: Callable[[Home, Models, str, Ledger], None]
    run: Callable[[Home, Models, str, Ledger], None]
    of_backends: bool = True


def remember(memory: Memory, ledger: Ledger, text: str, session: str = "s") -> None:
    turn = memory.remember(session, "user", text)
    ledger.note(did="turn", seq=turn.seq, text=text)


def forget(memory: Memory, ledger: Ledger, *seqs: int) -> None:
    ledger.note(did="try", seqs=seqs)
    done = memory.forget(seqs)
    ledger.note(did="forgot", seqs=[*done.turns, *done.replies])


def _filled(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    """Two memories with stored states, one forgetting behind them, and a tail that neither has stored."""
    random_ = random.Random(0)
    with models.open(home, backend) as memory:
        for _ in range(6):
            remember(memory, ledger, sentence(random_))
        memory.checkpoint()
        forget(memory, ledger, 2)
    if backend != BESIDE:
        with models.open(home, BESIDE) as memory:
            memory.checkpoint()
    with models.open(home, backend) as memory:
        remember(memory, ledger, sentence(random_))


def _nothing(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    """The first opening of all makes everything."""


def _remember(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    random_ = random.Random(1)
    with models.open(home, backend) as memory:
        for _ in range(3):
            remember(memory, ledger, sentence(random_))


def _forget(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    with models.open(home, backend) as memory:
        forget(memory, ledger, 1, 4)
        forget(memory, ledger, 7)


def _correct(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    """A killed correction leaves the old turn or the new one, never both or none."""
    text = sentence(random.Random(4))
    with models.open(home, backend) as memory:
        ledger.note(did="correct", seq=4, text=text)
        turn, forgotten = memory.correct(4, text)
        ledger.note(did="forgot", seqs=[*forgotten.turns, *forgotten.replies])
        ledger.note(did="turn", seq=turn.seq, text=text)


def put(memory: Memory, ledger: Ledger, key: str, text: str | None) -> None:
    """Store an item, or delete it."""
    ledger.note(did="try put", key=key, text=text)
    new = [] if text is None else [NewItem(NAMESPACE, key, {"text": text}, text)]
    memory.journal.put_items(new, [(NAMESPACE, key)] if text is None else [])
    ledger.note(did="put", key=key, text=text)


def _with_items(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    """Three items in two memories with stored states, besides turns."""
    _filled(home, models, backend, ledger)
    random_ = random.Random(5)
    with models.open(home, backend) as memory:
        for key in ("first", "second", "third"):
            put(memory, ledger, key, sentence(random_))
        memory.catch_up()
        memory.checkpoint()
    if backend != BESIDE:
        with models.open(home, BESIDE) as memory:
            memory.checkpoint()


def _put(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    """A killed put leaves the old item or the new one; what is overwritten or deleted leaves all files."""
    random_ = random.Random(6)
    with models.open(home, backend) as memory:
        put(memory, ledger, "fourth", sentence(random_))
        put(memory, ledger, "first", sentence(random_))
        put(memory, ledger, "second", None)
        memory.recall("What is there?")
        memory.finish_forgetting()
        put(memory, ledger, "first", sentence(random_))
        put(memory, ledger, "second", sentence(random_))
        put(memory, ledger, "third", None)


def item_texts(journal: JournalReader) -> dict[str, str]:
    """Return the texts of the current items by key."""
    seqs = [entry.seq for entry in read_entries(journal, datetime.now(UTC))]
    return {item.key: item.value["text"] for item in read_items(journal, seqs)}


def _checkpoint(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    with models.open(home, backend) as memory:
        memory.checkpoint()
        memory.checkpoint()


def _consolidate(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    with models.open(home, backend) as memory:
        memory.consolidate()


def _rebuild(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    with models.open(home, backend) as memory:
        memory.rebuild()


def _import(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    source = home.root.parent / "import.jsonl"
    with open_source(source, source.parent) as (opened, _), open_journal(home, USER) as journal:
        prove(opened)
        load(journal, opened)
        for turn in journal.turns():
            if turn.session == "imported":
                ledger.note(did="turn", seq=turn.seq, text=turn.text)
    models.open(home, backend).close()


def _before_import(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    _filled(home, models, backend, ledger)
    random_ = random.Random(2)
    with Journal(home.root.parent / "other.sqlite3", USER) as other:
        other.extend([NewTurn("imported", "user", sentence(random_)) for _ in range(5)])
        other.forget([3])
        with (home.root.parent / "import.jsonl").open("w") as file:
            export(other, file)


def _before_migration(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    """A journal as version 1 of the schema had it."""
    with open_journal(home, USER) as journal:
        random_ = random.Random(3)
        for _ in range(5):
            text = sentence(random_)
            ledger.note(did="turn", seq=journal.append("s", "user", text).seq, text=text)
    with closing(sqlite3.connect(home.journal_file(USER))) as connection:
        connection.executescript(
            "DROP TABLE attachments; DROP TABLE pins; DROP TABLE items;"
            "ALTER TABLE turns DROP COLUMN recalled; ALTER TABLE turns DROP COLUMN attachment_count;"
            "DROP TABLE chain; DROP TABLE unfinished; DROP INDEX forgettings_by_seq;"
            "ALTER TABLE turns DROP COLUMN salt; ALTER TABLE forgettings DROP COLUMN head;"
            "ALTER TABLE users DROP COLUMN head; ALTER TABLE users DROP COLUMN forgetting_head;"
            "ALTER TABLE checkpoints RENAME COLUMN place TO host;"
            "UPDATE meta SET value = '1' WHERE key = 'version'"
        )
    home.mark_file(USER).unlink()


def _migrate(home: Home, models: Models, backend: str, ledger: Ledger) -> None:
    open_journal(home, USER).close()


OPERATIONS = [
    Operation("begin", _nothing, _remember),
    Operation("remember", _filled, _remember),
    Operation("forget", _filled, _forget),
    Operation("correct", _filled, _correct),
    Operation("put", _with_items, _put),
    Operation("checkpoint", _filled, _checkpoint),
    Operation("consolidate", _filled, _consolidate),
    Operation("rebuild", _filled, _rebuild),
    Operation("import", _before_import, _import),
    Operation("migrate", _before_migration, _migrate, of_backends=False),
]


@dataclass(frozen=True)
class Kill:
    """One kill and what it left wrong; nothing, if all is well."""

    operation: str
    backend: str
    point: int
    faults: list[str]
    reached: bool


class Campaign:
    """Kills in one operation of one backend.

    Args:
        folder: an empty folder for the homes.
    """

    def __init__(
        self, folder: Path, operation: Operation, backend: str, models: Models, model_folder: Path
    ) -> None:
        self.folder = folder
        self.operation = operation
        self.backend = backend
        self.models = models
        self._model_folder = model_folder
        self._ready = folder / "ready"
        self._prepare()

    def points(self) -> int:
        """Count the points of the operation."""
        home = self._copy("dry")
        counted = self.folder / "points"

        def work() -> None:
            killer = Killer(0)
            killer.install()
            self.operation.run(home, self.models, self.backend, Ledger(home.root.parent / "ledger"))
            counted.write_text(str(killer.count))

        if forked(work):
            raise RuntimeError(f"{self.operation.name} of {self.backend} fails without a kill")
        return int(counted.read_text())

    def kill(self, point: int) -> Kill:
        """Run the operation, killed at a point, and examine what it left."""
        home = self._copy("killed")

        def die() -> None:
            Killer(point).install()
            self.operation.run(home, self.models, self.backend, Ledger(home.root.parent / "ledger"))

        status = forked(die)
        # It may end before the point, with success: a memory stores its state when reading took long, by the clock.
        reached = os.WIFSIGNALED(status)
        faults = [] if reached or status == 0 else [f"it was not killed but ended with {status}"]
        found = home.root.parent / "faults"

        def look() -> None:
            found.write_text("\n".join(self._faults(home)))

        if forked(look):
            faults.append("the examination after it failed")
        else:
            faults += found.read_text().splitlines()
        return Kill(self.operation.name, self.backend, point, faults, reached)

    def _faults(self, home: Home) -> Iterator[str]:
        expected = Expected.read([home.root.parent / "ledger"])
        # One command of the user's, whichever, is enough to finish what was cut off.
        with self.models.open(home, self.backend) as memory:
            yield from (f"unfinished: {one}" for one in memory.journal.unfinished())
            kept = {turn.seq: turn.text for turn in memory.journal.turns()}
            item_text_by_key = item_texts(memory.journal)
            yield from (
                f"the item {key} is {item_text_by_key.get(key)!r} instead of one of {texts}"
                for key, texts in expected.items.items()
                if item_text_by_key.get(key) not in texts
            )
            if outdated := outdated_seqs(memory.journal):
                yield f"outdated items are not purged: {outdated}"
            if memory.position.seq != memory.journal.last()[0]:
                yield f"the memory has read up to {memory.position.seq} only"
            last = memory.remember("after", "user", "Afterwards the zebra is called Quagga.")
            if last.seq in expected.texts:
                yield f"the number {last.seq} is given again"
            if self.backend != "none" and last.text not in [
                item.text for item in memory.recall("What is the zebra called?", limit=10)
            ]:
                yield "what is told afterwards is not recalled"
        gone = [text for seq, text in expected.texts.items() if seq not in kept]
        gone += [text for text in expected.item_texts if text not in kept.values()]
        yield from leaks(home.root, gone, kept.values())
        yield from check(home, expected)

    def _prepare(self) -> None:
        self._ready.mkdir(parents=True)
        ledger = self._ready / "ledger"
        home = Home(self._ready / "home", self._model_folder)

        def work() -> None:
            self.operation.prepare(home, self.models, self.backend, Ledger(ledger))

        if forked(work):
            raise RuntimeError(f"{self.operation.name} of {self.backend} cannot be prepared")
        ledger.touch()

    def _copy(self, name: str) -> Home:
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self._ready, target)
        return Home(target / "home", self._model_folder)
