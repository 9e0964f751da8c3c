"""Examine an installation: what is wrong and how to mend it; on request, mend what is safe to."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from memagent.agent.home import Home
from memagent.agent.journal import Journal
from memagent.agent.journal.mark import UnreadableMarkError
from memagent.agent.journal.schema import NoJournalError, OutdatedSchemaError
from memagent.agent.memory import Memory, open_journal
from memagent.agent.memory.checkpoint import CheckpointStore
from memagent.agent.memory.forgetting import OpenBeside, finish
from memagent.agent.memory.lock import backend_lock
from memagent.agent.memory.loss import examine_loss
from memagent.agent.memory.workspace import Scratch, remove_dead_readers
from memagent.agent.models.catalogue import CATALOGUE, DEFAULT_EMBEDDER, DEFAULT_MODEL
from memagent.agent.models.convert import find_damage
from memagent.agent.models.hub import check
from memagent.agent.models.loader import transformers_folder
from memagent.backends import registry
from memagent.backends.errors import BusyError, CheckpointError, MemagentError

_PACKAGES = ("torch", "transformers", "chromadb", "langchain-core", "SQLAlchemy")
_LOW_DISK = 2_000_000_000

Level = Literal["good", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        area: ``home``, ``journal``, ``backend``, ``model`` or ``version``.
        level: ``wrong`` must be mended, ``note`` is worth knowing, ``good`` is in order.
        message: what the check found.
        mend: what to do about it, as a command or a sentence; empty: nothing.
    """

    area: str
    level: Level
    message: str
    mend: str = ""


def examine(
    home: Home, *, mend: bool = False, open_beside: Callable[[str], OpenBeside] | None = None
) -> Iterator[Finding]:
    """Check versions, home folder, journals, stored memories and models, and yield the findings.

    Args:
        home: the folders of the installation.
        mend: also remove files that only waste space or are damaged and can be rebuilt, restrict the modes of memagent's
            own files, migrate journals to this version, and finish interrupted forgettings. False: nothing changes.
        open_beside: for a user, returns the function that opens stored memories so that they can forget. None: they are
            opened with the embedder that the environment names, and without a local model.
    """
    yield from _versions()
    yield from _home(home, mend)
    if home.root.is_dir() and os.access(home.root, os.R_OK | os.X_OK):
        for user in home.users():
            yield from _user(home, user, mend, open_beside or partial(_open_beside, home))
    yield from _models(home)


def _versions() -> Iterator[Finding]:
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Finding("version", "wrong", f"{package} is not installed.", f"pip install {package}")
    yield Finding("version", "good", ", ".join(versions))


def _home(home: Home, mend: bool) -> Iterator[Finding]:
    """Check that the home is there, writable, closed to others and has free disk space.

    With ``mend``, the rights of others are taken from memagent's own files.
    """
    root = home.root
    if not root.exists():
        yield Finding("home", "note", f"{root} does not exist yet; the first chat makes it.")
        return
    if not os.access(root, os.W_OK | os.X_OK):
        yield Finding(
            "home",
            "wrong",
            f"{root} is not writable for this account.",
            f"chmod u+rwx {shlex.quote(str(root))}, or set MEMAGENT_HOME",
        )
        return
    free = shutil.disk_usage(root).free
    level: Level = "good" if free > _LOW_DISK else "note"
    yield Finding(
        "home", level, f"{root}, {free / 1e9:.1f} GB free", "" if level == "good" else "Free some space."
    )
    exposed = [path for path in _own_files(root) if _mode(path) & 0o077]
    if mend:
        for path in exposed:
            path.chmod(_mode(path) & 0o700)
    if exposed:
        yield Finding(
            "home",
            "note" if mend else "wrong",
            f"{len(exposed)} files or folders {'were' if mend else 'are'} readable for others, such as {exposed[0]}",
            "" if mend else "memagent doctor --mend",
        )


def _own_files(root: Path) -> Iterator[Path]:
    """Yield memagent's own files and folders under a home, which may contain other files too.

    The working files of open memories, and states that are being stored and have no manifest yet, are omitted: libraries
    create them with the process's usual modes, in private folders.
    """
    users = root / "users"
    if users.is_dir() and not users.is_symlink():
        yield users
        for user in users.iterdir():
            if user.is_dir() and not user.is_symlink():
                yield user
                backends = user / "backends"
                for path in [*user.glob("journal*"), backends, *backends.rglob("*")]:
                    if not _is_working_file(user, path) and path.exists() and not path.is_symlink():
                        yield path


def _is_working_file(user: Path, path: Path) -> bool:
    """Return whether a path is inside the working folder of an open memory, or of a state that is being stored."""
    *inside, _ = path.relative_to(user).parts
    if len(inside) < 3:
        return path.name in ("scratch", "readers") and len(inside) == 2
    return inside[2] in ("scratch", "readers") or not user.joinpath(*inside[:3], "manifest.json").exists()


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:  # another process has removed it
        return 0


def _user(home: Home, user: str, mend: bool, open_beside: Callable[[str], OpenBeside]) -> Iterator[Finding]:
    loss = examine_loss(home, user)
    if home.journal_url is None and not home.journal_file(user).exists() and not (loss and loss.claims):
        yield Finding("journal", "note", f"{home.user_folder(user)} holds no journal; it is left alone.")
        return
    if loss is not None:
        yield from _loss(user, loss.journal, [claim.claimant for claim in loss.claims])
    if loss is None or not loss.journal:
        yield from _journal(home, user, mend and loss is None, open_beside)
    if loss is None:
        for backend in home.backends_of(user):
            yield from _backend(home, user, backend, mend)


def _loss(user: str, journal: str, claimants: list[str]) -> Iterator[Finding]:
    who = " and ".join(name[0].lower() + name[1:] for name in claimants)
    more = (
        f" {who[0].upper()}{who[1:]} cover{'s' if len(claimants) == 1 else ''} turns that it does not have."
        if who
        else ""
    )
    yield Finding(
        "journal",
        "wrong",
        f"{user}: {journal or 'Turns were lost, or an older or another journal was put in its place.'}{more}",
        f"Put a newer backup in its place; or go on without: memagent accept-loss --user {shlex.quote(user)}",
    )


def _journal(
    home: Home, user: str, mend: bool, open_beside: Callable[[str], OpenBeside]
) -> Iterator[Finding]:
    try:
        with open_journal(home, user, read_only=not mend, trusting=True) as journal:
            wrong = journal.audit()
            for fault in wrong:
                yield Finding(
                    "journal",
                    "wrong",
                    f"{user}: {fault}",
                    "Keep a copy of the file; restore a backup, or import an export into a new home.",
                )
            if wrong:
                return
            yield from _mark(journal, user, mend)
            yield from _unfinished(home, journal, mend, open_beside)
            for backend, place, seq in journal.checkpoints():
                where = f" at {place}" if place else ""
                yield Finding("journal", "good", f"{user}: {backend}{where} was stored up to turn {seq:,}")
            yield Finding("journal", "good", f"{user}: the chain of digests proves every turn and forgetting")
            yield Finding(
                "journal",
                "good",
                f"{user}: {journal.count():,} turns in {len(journal.sessions()):,} sessions",
            )
    except NoJournalError as error:
        yield Finding("journal", "note", f"{user}: {error}")
    except OutdatedSchemaError as error:
        yield Finding("journal", "note", f"{user}: {error}", "memagent doctor --mend")
    except MemagentError as error:
        yield Finding("journal", "wrong", f"{user}: {error}")


def _mark(journal: Journal, user: str, mend: bool) -> Iterator[Finding]:
    mark = journal.mark
    if mark is None:
        return
    try:
        mark.read()
    except UnreadableMarkError as error:
        if mend:
            mark.replace(journal.extent())
        yield Finding(
            "journal", "note", f"{user}: {error}", "" if mend else "memagent doctor --mend writes it anew."
        )


def _open_beside(home: Home, user: str) -> OpenBeside:
    return lambda backend, settings, lock: Memory.open(
        home, user, backend, settings, lock=lock, strict=True, follow=False
    )


def _unfinished(
    home: Home, journal: Journal, mend: bool, open_beside: Callable[[str], OpenBeside]
) -> Iterator[Finding]:
    """Finish interrupted forgettings, or report them."""
    if mend:
        if not journal.unfinished():
            journal.purge()
        if not journal.unfinished():
            return
        discarded, remaining = finish(home, journal, open_beside(journal.user))
        for name in discarded:
            yield Finding(
                "journal", "note", f"{journal.user}: removed the state of {name}, which could not forget."
            )
        for step in remaining:
            what = step.backend or "the journal's file"
            yield Finding(
                "journal",
                "note",
                f"{journal.user}: {what} may still hold forgotten turns. {step.reason}",
                step.command,
            )
        return
    for due in journal.unfinished():
        what = f"the stored memory of {due.backend}" if due.backend else "the journal's file"
        where = f" at {due.place}" if due.place else ""
        yield Finding(
            "journal",
            "note",
            f"{journal.user}: a forgetting is unfinished: {what}{where} may still hold what was forgotten.",
            "memagent doctor --mend",
        )


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
    with ExitStack() as stack:
        if os.access(home.backend_folder(user, name), os.W_OK):
            lock = backend_lock(home, user, name)
            try:
                lock.acquire(wait_seconds=0)
            except BusyError:
                yield Finding("backend", "note", f"{where}: in use by {lock.holder()}")
                return
            stack.callback(lock.release)
        yield from _state(home, user, name, where, mend)


def _state(home: Home, user: str, name: str, where: str, mend: bool) -> Iterator[Finding]:
    folder = home.backend_folder(user, name)
    store, scratch = CheckpointStore(folder), Scratch(folder)
    if mend:
        remove_dead_readers(folder)
    if scratch.exists():
        if mend:
            scratch.drop()
        yield Finding(
            "backend",
            "note",
            f"{where}: working files of a process that was killed",
            "" if mend else "Removed at next use.",
        )
    try:
        checkpoint = store.inspect()
    except CheckpointError as error:
        if mend:
            store.discard()
        action = "it was removed and" if mend else "it"
        yield Finding(
            "backend",
            "note" if mend else "wrong",
            f"{where}: {error}; {action} is rebuilt at next use.",
            "" if mend else f"memagent backends rebuild {name} --user {shlex.quote(user)}",
        )
        return
    if checkpoint is None:
        yield Finding("backend", "good", f"{where}: nothing stored; it reads the journal when used.")
        return
    try:
        with open_journal(home, user, read_only=True) as journal:
            behind = journal.last()[0] - checkpoint.position.seq
    except MemagentError:  # reported with the journal
        return
    yield Finding(
        "backend",
        "good",
        f"{where}: stored up to turn {checkpoint.position.seq:,}, {behind:,} to read at next use",
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
        wrong = find_damage(ready, model.weights.sha256) if ready.exists() else ""
        yield Finding(
            "model",
            "note" if wrong else "good",
            f"{model.name}: {wrong or 'here and verified'}",
            "Converted again at next use." if wrong else "",
        )
