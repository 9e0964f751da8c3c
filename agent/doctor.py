"""Looking over an installation: what is wrong, and how to mend it. Changes nothing unless told to."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from memagent.agent.checkpoint import CheckpointStore
from memagent.agent.home import Home
from memagent.agent.memory import backend_lock, open_journal
from memagent.agent.models.catalogue import CATALOGUE, DEFAULT_EMBEDDER, DEFAULT_MODEL
from memagent.agent.models.convert import damage
from memagent.agent.models.fetch import check
from memagent.agent.models.resolve import transformers_folder
from memagent.backends import registry
from memagent.backends.errors import BusyError, CheckpointError, MemagentError

_PACKAGES = ("torch", "transformers", "chromadb", "langchain-core", "SQLAlchemy")
_LOW_DISK = 2_000_000_000

Level = Literal["good", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        area: home, journal, backend, model or version.
        level: ``wrong`` needs mending, ``note`` is worth knowing.
        said: what was found.
        mend: what to do about it; empty if nothing.
    """

    area: str
    level: Level
    said: str
    mend: str = ""


def examine(home: Home, *, mend: bool = False) -> Iterator[Finding]:
    """Look at everything and yield what is found.

    Args:
        mend: also remove what only wastes space or is damaged and can be rebuilt, tighten file
            modes, and rewrite journals so that no forgotten bytes are left in their files.
    """
    yield from _versions()
    yield from _home(home, mend)
    if home.root.is_dir() and os.access(home.root, os.W_OK):
        for user in home.users():
            if home.journal_url is None and not home.journal_file(user).exists():
                yield Finding(
                    "journal", "note", f"{home.user_folder(user)} holds no journal; it is left alone."
                )
                continue
            yield from _journal(home, user, mend)
            for backend in home.backends_of(user):
                yield from _backend(home, user, backend, mend)
    yield from _models(home)


def _versions() -> Iterator[Finding]:
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Finding(
                "version", "wrong", f"{package} is not installed.", "pip install --upgrade memagent"
            )
    yield Finding("version", "good", ", ".join(found))


def _home(home: Home, mend: bool) -> Iterator[Finding]:
    root = home.root
    if not root.exists():
        yield Finding("home", "note", f"{root} does not exist yet; the first chat makes it.")
        return
    if not os.access(root, os.W_OK | os.X_OK):
        yield Finding(
            "home",
            "wrong",
            f"{root} is not writable for this account.",
            f"chmod u+rwx {root}, or set MEMAGENT_HOME",
        )
        return
    free = shutil.disk_usage(root).free
    level: Level = "good" if free > _LOW_DISK else "note"
    yield Finding(
        "home", level, f"{root}, {free / 1e9:.1f} GB free", "" if level == "good" else "Free some space."
    )
    open_ones = [
        path
        for path in [root, *root.rglob("*")]
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if open_ones and mend:
        for path in open_ones:
            path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o700)
    if open_ones:
        yield Finding(
            "home",
            "note" if mend else "wrong",
            f"{len(open_ones)} files or folders {'were' if mend else 'are'} readable for others, such as {open_ones[0]}",
            "" if mend else "memagent doctor --mend",
        )


def _journal(home: Home, user: str, mend: bool) -> Iterator[Finding]:
    try:
        with open_journal(home, user) as journal:
            wrong = journal.check()
            if wrong:
                yield Finding(
                    "journal",
                    "wrong",
                    f"{user}: {wrong[0]}",
                    "Make a copy of the file, then: memagent export, and import into a new home; else restore a backup.",
                )
                return
            if mend:
                journal.purge()
            for backend, host, seq in journal.checkpoints():
                yield Finding("journal", "good", f"{user}: {backend} on {host} was stored up to turn {seq:,}")
            yield Finding(
                "journal",
                "good",
                f"{user}: {journal.count():,} turns in {len(journal.sessions()):,} sessions",
            )
    except MemagentError as error:
        yield Finding("journal", "wrong", f"{user}: {error}", "Restore the file from a backup or an export.")


def _backend(home: Home, user: str, name: str, mend: bool) -> Iterator[Finding]:
    where = f"{name} of {user}"
    if name not in registry.names():
        yield Finding(
            "backend",
            "note",
            f"{where}: no installed package offers {name}.",
            f"Install it, or remove {home.backend_folder(user, name)}",
        )
        return
    lock = backend_lock(home, user, name)
    try:
        lock.acquire(wait_seconds=0)
    except BusyError:
        yield Finding("backend", "note", f"{where}: in use by {lock.holder()}")
        return
    try:
        yield from _state(home, user, name, where, mend)
    finally:
        lock.release()


def _state(home: Home, user: str, name: str, where: str, mend: bool) -> Iterator[Finding]:
    store = CheckpointStore(home.backend_folder(user, name))
    if store.has_scratch():
        if mend:
            store.drop_scratch()
        yield Finding(
            "backend",
            "note",
            f"{where}: working files of a process that was killed",
            "" if mend else "Removed at next use.",
        )
    try:
        found = store.inspect()
    except CheckpointError as error:
        if mend:
            store.discard()
        said = "it was removed and" if mend else "it"
        yield Finding(
            "backend",
            "note" if mend else "wrong",
            f"{where}: {error}; {said} is rebuilt at next use.",
            "" if mend else f"memagent backends rebuild {name} --user {user}",
        )
        return
    if found is None:
        yield Finding("backend", "good", f"{where}: nothing stored; it reads the journal when used.")
        return
    try:
        with open_journal(home, user) as journal:
            behind = journal.last()[0] - found.position.seq
    except MemagentError:  # reported with the journal
        return
    yield Finding(
        "backend",
        "good",
        f"{where}: stored up to turn {found.position.seq:,}, {behind:,} to read at next use",
    )


def _models(home: Home) -> Iterator[Finding]:
    for model in CATALOGUE.values():
        folder = model.folder(home.models)
        if not (folder / model.weights.name).exists():
            if model.name in (DEFAULT_MODEL, DEFAULT_EMBEDDER):
                yield Finding(
                    "model", "note", f"{model.name} is not here yet.", f"memagent models pull {model.name}"
                )
            continue
        try:
            for file in model.files:
                check(folder / file.name, file, model.name)
        except MemagentError as error:
            yield Finding("model", "wrong", str(error), f"memagent models pull {model.name}")
            continue
        ready = transformers_folder(model, home.models)
        wrong = damage(ready, model.weights.sha256) if ready.exists() else ""
        yield Finding(
            "model",
            "note" if wrong else "good",
            f"{model.name}: {wrong or 'here and verified'}",
            "Converted again at next use." if wrong else "",
        )
