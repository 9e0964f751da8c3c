"""Detect that a journal has lost turns, and accept the loss if the user says so, with a record of what was lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from memagent.agent.files import create_private
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
    """A statement that the journal had more turns or forgettings than it has now.

    Attributes:
        claimant: what states it: the high-water mark, or the stored memory of a backend.
        extent: how far the journal reached.
    """

    claimant: str
    extent: Extent


@dataclass(frozen=True, slots=True)
class Loss:
    """What a journal has lost.

    Attributes:
        journal: why the journal cannot be used; empty if it can. ``accept_loss`` moves it away and begins a new one.
        reached: how far the journal reaches now; None if it cannot be used.
        claims: statements that it reached further.
    """

    journal: str
    reached: Extent | None
    claims: tuple[Claim, ...]


def examine_loss(home: Home, user: str) -> Loss | None:
    """Return what a user's journal has lost, or None if nothing indicates a loss. Changes nothing.

    Args:
        home: the folders of the installation.
        user: name of the user.
    """
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
                claims = [claim for claim in _claims(home, user) if not _confirmed(journal, claim)]
        except DamagedDatabaseError as error:
            damage = str(error)
        except (
            NoJournalError,
            OutdatedSchemaError,
        ):  # nothing to compare with before the journal is next written
            return None
    if damage:
        claims = list(_claims(home, user))
    return Loss(damage, reached, tuple(claims)) if damage or claims else None


def accept_loss(home: Home, user: str) -> tuple[Loss, Path]:
    """Continue with the journal as it is, or with a new one if it cannot be used.

    The mark and the manifests of stored states are first copied into a folder ``lost-TIME`` of the user; they contain
    numbers and digests, no text. A journal that cannot be used is moved there. Then the states that cover more than the
    journal are removed, and the mark is set to where the journal ends.

    Args:
        home: the folders of the installation.
        user: name of the user.

    Returns:
        What was lost, and the folder with the record.

    Raises:
        StorageError: the journal has lost nothing.
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
        folder = create_private(home.user_folder(user) / f"lost-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        if mark.exists():
            shutil.copyfile(mark.file, folder / mark.file.name)
        stores = {name: CheckpointStore(home.backend_folder(user, name)) for name in home.backends_of(user)}
        for name, store in stores.items():
            _copy_manifest(store, folder / f"{name}.manifest.json")
        if loss.journal and home.journal_url is None:
            _move_journal(home.journal_file(user), folder)
        claimants = {claim.claimant for claim in loss.claims}
        for name, store in stores.items():
            if loss.journal or _claimant(name) in claimants:
                store.discard()
        mark.file.unlink(missing_ok=True)
        with open_journal(home, user) as journal:
            journal.reserve(max((claim.extent.seq for claim in loss.claims), default=0))
            mark.replace(journal.extent())
        return loss, folder


def _claims(home: Home, user: str) -> Iterator[Claim]:
    """Yield how far the high-water mark and the manifests of stored states say that the journal reached, where readable."""
    mark = HighWaterMark(home.mark_file(user))
    try:
        extent = mark.read()
    except UnreadableMarkError:
        extent = None
    if extent is not None:
        yield Claim("The high-water mark", extent)
    for name in home.backends_of(user):
        try:
            checkpoint = CheckpointStore(home.backend_folder(user, name)).read()
        except CheckpointError:
            continue
        if checkpoint is not None and checkpoint.user == user:
            yield Claim(_claimant(name), checkpoint.extent)


def _claimant(backend: str) -> str:
    return f"The stored memory of {backend}"


def _confirmed(journal: Journal, claim: Claim) -> bool:
    """Return whether the journal continues what is claimed."""
    try:
        journal.confirm(claim.extent, claim.claimant)
    except JournalDamagedError:
        return False
    return True


def _copy_manifest(store: CheckpointStore, target: Path) -> None:
    """Copy the manifest of a current state into a private file; nothing if there is no readable one."""
    try:
        checkpoint = store.read()
    except CheckpointError:
        return
    if checkpoint is not None:
        shutil.copyfile(checkpoint.directory / "manifest.json", target)
        target.chmod(0o600)


def _move_journal(file: Path, folder: Path) -> None:
    """Move a journal that cannot be used, with its write-ahead log, which may contain turns."""
    for suffix in ("", "-wal", "-shm"):
        path = file.with_name(file.name + suffix)
        if path.exists():
            path.rename(folder / path.name)
