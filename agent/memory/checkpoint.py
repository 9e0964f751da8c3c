"""Stored states of backends: a new state is written next to the old one, synced, and made current in one step.

    <backend folder>/CURRENT            name of the current generation, SHA-256 of its manifest
    <backend folder>/000042/            one generation: the files that the backend saved, and manifest.json
    <backend folder>/scratch/           working files of the process that has the lock; removed by the next one
    <backend folder>/readers/           working files of processes that only read; see workspace.py

A generation never changes after it is written. Its manifest says how much of the journal it covers, the fingerprint of
its model and settings, and the SHA-256 of every file. The files are checked before a backend reads them, because
databases and indexes may crash on damaged files instead of refusing them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memagent.agent.files import create_private, make_tree_private, write_private
from memagent.agent.journal.records import Extent
from memagent.agent.memory.state_files import hash_files, remove_tree, replace_file, sync_tree
from memagent.backends.errors import CheckpointError, StorageError
from memagent.backends.protocol import Fingerprint

_FORMAT = 2
_MANIFEST = "manifest.json"


class ForeignStateError(CheckpointError):
    """A stored state is undamaged, but of another model or of other settings."""


@dataclass(frozen=True, slots=True)
class Position:
    """How much of the journal a state covers.

    Attributes:
        seq: seq of the last turn; 0: none.
        forgetting: number of the last forgetting; 0: none.
    """

    seq: int = 0
    forgetting: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The manifest of a stored state.

    Attributes:
        directory: the generation's folder.
        manifest_sha256: digest of the manifest file.
        user: name of the user.
        fingerprint: what the state depends on besides the turns; see ``MemoryBackend.fingerprint``.
        extent: how much of the journal the state covers, with the digests that prove it.
        settings: the backend's settings as text, by field name.
        files: the SHA-256 of every file, by relative path.
        costly: True if reading the journal again would take long.
    """

    directory: Path
    manifest_sha256: str
    user: str
    fingerprint: Fingerprint
    extent: Extent
    settings: dict[str, str]
    files: dict[str, str]
    costly: bool

    @property
    def position(self) -> Position:
        """How much of the journal the state covers."""
        return Position(self.extent.seq, self.extent.forgetting)

    def check_fingerprint(self, fingerprint: Fingerprint) -> None:
        """Make sure that the state is of the current model and settings.

        Args:
            fingerprint: fingerprint of the current model and settings.

        Raises:
            ForeignStateError: it is not; the message lists the differences.
        """
        keys = sorted({*self.fingerprint, *fingerprint})
        changed = [key for key in keys if self.fingerprint.get(key) != fingerprint.get(key)]
        if changed:
            raise ForeignStateError(
                "; ".join(
                    f"its {key} is {_short(self.fingerprint.get(key))}, now it is {_short(fingerprint.get(key))}"
                    for key in changed
                )
            )

    def check_files(self) -> None:
        """Make sure that no file has changed since it was written.

        Cost: reads the state once, about 1 GB a second.

        Raises:
            CheckpointError: a file has changed, is missing, or was added.
            OSError: a file cannot be read.
        """
        try:
            files = hash_files(self.directory, ignore=_MANIFEST)
        except FileNotFoundError as error:
            raise CheckpointError(f"its files cannot be read ({error})") from error
        damaged = sorted(path for path in {*files, *self.files} if files.get(path) != self.files.get(path))
        if damaged:
            raise CheckpointError(
                f"{len(damaged)} of its files are not what was written, {damaged[0]} among them"
            )


class CheckpointStore:
    """The stored states of one backend for one user. Only the process that has the backend's lock may change them.

    Args:
        folder: the backend's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._current = folder / "CURRENT"

    def current(self) -> tuple[str, str] | None:
        """Return the current generation's name and its manifest's SHA-256, or None if nothing is stored.

        Raises:
            CheckpointError: the file ``CURRENT`` is damaged.
            StorageError: it cannot be read.
        """
        try:
            pointer = self._current.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{self._current} cannot be read: {error.strerror}.") from error
        name, _, digest = pointer.strip().partition(" ")
        if not (name.isascii() and name.isdigit()) or len(digest) != 64:
            raise CheckpointError(f"{self._current} names no generation but {pointer[:40]!r}")
        return name, digest

    def read(self) -> Checkpoint | None:
        """Read the current generation's manifest, but none of its files; None if nothing is stored.

        Raises:
            CheckpointError: the manifest is damaged, or of another format.
            StorageError: it cannot be read.
        """
        current = self.current()
        if current is None:
            return None
        name, digest = current
        return _read_manifest(self.folder / name, digest)

    def inspect(self) -> Checkpoint | None:
        """Read the current generation's manifest and check all its files; None if nothing is stored.

        Raises:
            CheckpointError: the state is damaged, or of another format.
            OSError: a file cannot be read.
        """
        checkpoint = self.read()
        if checkpoint is not None:
            checkpoint.check_files()
        return checkpoint

    def write(
        self,
        save: Callable[[Path], None],
        *,
        user: str,
        fingerprint: Fingerprint,
        extent: Extent,
        settings: Mapping[str, str] | None = None,
        costly: bool = False,
        record: Callable[[str], None] | None = None,
    ) -> Checkpoint:
        """Store a state: a new directory, synced to disk, made current by one atomic rename.

        Older generations are then removed. After a crash at any moment, the old or the new generation is current, and it is
        complete.

        Args:
            save: writes the backend's files into an empty directory.
            user: name of the user.
            fingerprint: what the state depends on besides the turns.
            extent: how much of the journal the state covers.
            settings: the backend's settings as text, by field name.
            costly: True if reading the journal again would take long.
            record: called with the SHA-256 of the manifest when all files are synced, before the new generation becomes
                current. If it raises, the old generation stays current.

        Returns:
            The new checkpoint.

        Raises:
            StorageError: the disk is full or not writable, and the old generation stays current; or the rename cannot be
                synced or an older generation cannot be removed, and the new one is current.
        """
        generation = f"{self._highest() + 1:06d}"
        directory = self.folder / generation
        try:
            shutil.rmtree(directory, ignore_errors=True)
            create_private(directory)
            save(directory)
            make_tree_private(directory)
            manifest = {
                "format": _FORMAT,
                "user": user,
                "fingerprint": dict(fingerprint),
                "extent": asdict(extent),
                "settings": dict(settings or {}),
                "costly": costly,
                "files": hash_files(directory, ignore=_MANIFEST),
            }
            content = json.dumps(manifest, indent=1, sort_keys=True).encode()
            digest = hashlib.sha256(content).hexdigest()
            write_private(directory / _MANIFEST, content)
            sync_tree(directory)
            if record is not None:
                record(digest)
            replace_file(self._current, f"{generation} {digest}")
        except BaseException as error:
            if self._name() != generation:
                shutil.rmtree(directory, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise StorageError(
                f"The memory's state could not be stored in {self.folder}: {error.strerror or error}. "
                "The journal still has every turn; the next start reads them again. Free some space, or mend the disk or "
                "the folder's rights."
            ) from error
        self.remove_others()
        return _read_manifest(directory, digest)

    def discard(self) -> bool:
        """Remove all stored states; the journal can rebuild them.

        Returns:
            True if there was a current state.

        Raises:
            StorageError: a file could not be removed.
        """
        was_stored = self._current.exists()
        try:
            self._current.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self._current} cannot be removed: {error.strerror}.") from error
        self.remove_others()
        return was_stored

    def remove_others(self) -> None:
        """Remove older and incomplete generations.

        Raises:
            StorageError: a file could not be removed.
        """
        current = self._name()
        for entry in self.folder.glob("[0-9]*"):
            if entry.name != current:
                remove_tree(entry)
        with suppress(OSError):  # it contains a number and a digest only
            self._current.with_suffix(".new").unlink(missing_ok=True)

    def _name(self) -> str | None:
        """Return the current generation's name; None if there is none or ``CURRENT`` is damaged."""
        try:
            current = self.current()
        except CheckpointError:
            return None
        return current[0] if current is not None else None

    def _highest(self) -> int:
        """Return the highest number of a generation's folder, current, older or incomplete; 0 if there is none."""
        return max(
            (int(entry.name) for entry in self.folder.glob("[0-9]*") if entry.name.isdigit()), default=0
        )


def _short(value: object) -> str:
    """Return a short text of a value for a message: of a digest, the beginning."""
    text = repr(value)
    return text if len(text) <= 32 else f"{text[:12]}...{text[0]}"


def _read_manifest(directory: Path, digest: str) -> Checkpoint:
    """Read a manifest and check it against its digest."""
    try:
        content = (directory / _MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"its manifest cannot be read ({error})") from error
    except OSError as error:
        raise StorageError(f"{directory / _MANIFEST} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError("its manifest is not what was written")
    try:
        manifest: dict[str, Any] = json.loads(content)
        if manifest["format"] != _FORMAT:
            raise CheckpointError(f"it has format {manifest['format']!r}, this memagent writes {_FORMAT}")
        checkpoint = Checkpoint(
            directory,
            digest,
            manifest["user"],
            manifest["fingerprint"],
            Extent(**manifest["extent"]),
            manifest["settings"],
            manifest["files"],
            manifest["costly"],
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"its manifest is not one of memagent's ({error})") from error
    _check_types(checkpoint)
    return checkpoint


def _check_types(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless a manifest's values have their types."""
    extent = checkpoint.extent
    if not (
        isinstance(checkpoint.user, str)
        and isinstance(checkpoint.costly, bool)
        and all(
            isinstance(value, dict)
            for value in (checkpoint.fingerprint, checkpoint.settings, checkpoint.files)
        )
        and all(isinstance(value, int) and value >= 0 for value in (extent.seq, extent.forgetting))
        and all(
            isinstance(value, str)
            for value in (extent.head, extent.forgetting_head, *checkpoint.settings.values())
        )
    ):
        raise CheckpointError("its manifest is not one of memagent's")
