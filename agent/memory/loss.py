"""Going on after a journal has lost turns: only when the user says so, and with a record of what was lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from memagent.agent.files import make_private
from memagent.agent.home import Home
from memagent.agent.journal import Extent, Journal
from memagent.agent.journal.database import DamagedDatabaseError
from memagent.agent.journal.mark import HighWaterMark, UnreadableMarkError
from memagent.agent.journal.schema import NoJournalError, OutdatedSchemaError
from memagent.agent.memory import open_journal
from memagent.agent.memory.checkpoint import CheckpointStore
from memagent.agent.memory.lock import backend_lock
from memagent.backends.errors import CheckpointError, JournalDamagedError, StorageError


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that knows of more than the journal holds.

    Attributes:
        claimant: the high-water mark, or the stored memory of a backend.
        extent: how far it says that the journal has been.
    """

    claimant: str
    extent: Extent


@dataclass(frozen=True, slots=True)
class Loss:
    """What is lost, and what would be done to go on.

    Attributes:
        journal: why the journal itself cannot be used; empty if it can. It is set aside and begun anew.
        reached: how far the journal that is there reaches.
        claims: what knows of more.
    """

    journal: str
    reached: Extent | None
    claims: tuple[Claim, ...]


def examine_loss(home: Home, user: str) -> Loss | None:
    """Say what a user's journal has lost, or None if nothing speaks for a loss. Changes nothing."""
    damage, reached = "", None
    claims: list[Claim] = []
    file = None if home.journal_url else home.journal_file(user)
    if file is not None and (not file.exists() or file.stat().st_size == 0):
        if not home.mark_file(user).exists() and not any(_claims(home, user)):
            return None  # a first opening that was killed
        damage = f"{file} is {'empty' if file.exists() else 'missing'}."
    else:
        try:
            with open_journal(home, user, read_only=True, trusting=True) as journal:
                reached = journal.extent()
                claims = [one for one in _claims(home, user) if not _confirmed(journal, one)]
        except DamagedDatabaseError as error:
            damage = str(error)
        except (NoJournalError, OutdatedSchemaError):  # nothing to hold it against before it is next written
            return None
    if damage:
        claims = list(_claims(home, user))
    return Loss(damage, reached, tuple(claims)) if damage or claims else None


def accept_loss(home: Home, user: str) -> tuple[Loss, Path]:
    """Go on with the journal as it is, or with a new one where it cannot be used.

    First the mark, and the manifests of stored states that know of more, are copied into a folder of the user's named
    by the time; they hold numbers and digests, no text. A journal that cannot be used is moved there. Then these states
    are removed and the mark is set to where the journal is.

    Returns:
        What was lost, and that folder.

    Raises:
        StorageError: there is nothing to accept.
        BusyError: another process uses one of the user's memories; nothing was changed.
    """
    with ExitStack() as stack:
        for name in home.backends_of(user):
            lock = backend_lock(home, user, name)
            lock.acquire()
            stack.callback(lock.release)
        loss = examine_loss(home, user)
        if loss is None:
            raise StorageError(f"The journal of {user} has lost nothing: there is nothing to accept.")
        mark = HighWaterMark(home.mark_file(user))
        aside = make_private(home.user_folder(user) / f"lost-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        if mark.exists():
            shutil.copyfile(mark.file, aside / mark.file.name)
        stores = {name: CheckpointStore(home.backend_folder(user, name)) for name in home.backends_of(user)}
        for name, store in stores.items():
            _set_manifest_aside(store, aside / f"{name}.manifest.json")
        if loss.journal and home.journal_url is None:
            _move_journal(home.journal_file(user), aside)
        known = {claim.claimant for claim in loss.claims}
        for name, store in stores.items():
            if loss.journal or _claimant(name) in known:
                store.discard()
        mark.file.unlink(missing_ok=True)
        with open_journal(home, user) as journal:
            journal.reserve(max((claim.extent.seq for claim in loss.claims), default=0))
            mark.replace(journal.extent())
        return loss, aside


def _claims(home: Home, user: str) -> Iterator[Claim]:
    mark = HighWaterMark(home.mark_file(user))
    try:
        noted = mark.read()
    except UnreadableMarkError:
        noted = None
    if noted is not None:
        yield Claim("The high-water mark", noted)
    for name in home.backends_of(user):
        try:
            found = CheckpointStore(home.backend_folder(user, name)).read()
        except CheckpointError:
            continue
        if found is not None and found.user == user:
            yield Claim(_claimant(name), found.extent)


def _claimant(backend: str) -> str:
    return f"The stored memory of {backend}"


def _confirmed(journal: Journal, claim: Claim) -> bool:
    try:
        journal.confirm(claim.extent, claim.claimant)
    except JournalDamagedError:
        return False
    return True


def _set_manifest_aside(store: CheckpointStore, target: Path) -> None:
    try:
        found = store.read()
    except CheckpointError:
        return
    if found is not None:
        shutil.copyfile(found.directory / "manifest.json", target)
        target.chmod(0o600)


def _move_journal(file: Path, aside: Path) -> None:
    """Move a journal that cannot be used, by name: with its write-ahead log, which may hold turns."""
    for suffix in ("", "-wal", "-shm"):
        path = file.with_name(file.name + suffix)
        if path.exists():
            path.rename(aside / path.name)
