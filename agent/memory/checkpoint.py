"""Stored states of backends: written beside the old one, verified, switched in one step.

    <backend folder>/CURRENT            the current generation's name, its manifest's SHA-256
    <backend folder>/000042/            one generation: what the backend saved, and manifest.json
    <backend folder>/scratch/           working files of the process that holds the lock; never trusted again
    <backend folder>/readers/           working files of processes that only read; see workspace.py

A generation never changes after it is written. Its manifest holds how far it has followed the journal, the
fingerprint of what made it, and the SHA-256 of every file, checked before a byte is handed to a
backend: databases and indexes may crash on damaged files instead of refusing them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memagent.agent.files import make_private, make_tree_private, write_private
from memagent.agent.journal.records import Extent
from memagent.backends.errors import CheckpointError, StorageError
from memagent.backends.protocol import Fingerprint

_FORMAT = 2
_MANIFEST = "manifest.json"


class ForeignStateError(CheckpointError):
    """A stored state is sound, but was made by another model or with other settings."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a state has followed the journal: the last turn and the last forgetting it knows."""

    seq: int = 0
    forgetting: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the manifest of a stored state says.

    Attributes:
        extent: how far it has followed the journal, and what vouches for the journal up to there.
        settings: the backend's settings it was made with, as typed.
        files: the SHA-256 of every file, by relative path.
        costly: reading the journal again would take long.
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
        return Position(self.extent.seq, self.extent.forgetting)

    def check_fingerprint(self, fingerprint: Fingerprint) -> None:
        """Make sure that the state is of this model and these settings.

        Raises:
            ForeignStateError: it is not; the message says in what.
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
        """Make sure that every file is what was written. Cost: reads the state once, about 1 GB a second.

        Raises:
            CheckpointError: one is not.
            OSError: one cannot be read: the disk fails.
        """
        try:
            files = _hash_files(self.directory)
        except FileNotFoundError as error:
            raise CheckpointError(f"its files cannot be read ({error})") from error
        wrong = sorted(path for path in {*files, *self.files} if files.get(path) != self.files.get(path))
        if wrong:
            raise CheckpointError(
                f"{len(wrong)} of its files are not what was written, {wrong[0]} among them"
            )


class CheckpointStore:
    """The stored states of one backend for one user. Only who holds the backend's lock may change them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._current = folder / "CURRENT"

    def current(self) -> tuple[str, str] | None:
        """Return the current generation's name and its manifest's SHA-256, or None if nothing was ever stored.

        Raises:
            CheckpointError: the pointer to it is damaged.
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
        """Read the current generation's manifest; None if there is none. Its files are not looked at.

        Raises:
            CheckpointError: the manifest is damaged, or of another format.
        """
        current = self.current()
        if current is None:
            return None
        name, digest = current
        return _read_manifest(self.folder / name, digest)

    def inspect(self) -> Checkpoint | None:
        """Check the current generation byte by byte, whoever made it; None if there is none.

        Raises:
            CheckpointError: it is damaged or of another format.
        """
        found = self.read()
        if found is not None:
            found.check_files()
        return found

    def write(
        self,
        save: Callable[[Path], None],
        *,
        user: str,
        fingerprint: Fingerprint,
        extent: Extent,
        settings: Mapping[str, str] | None = None,
        costly: bool = False,
    ) -> Checkpoint:
        """Store a state: a new directory, synced to disk, made current by one atomic rename.

        A crash at any moment leaves the old generation or the new one current, both whole.

        Raises:
            StorageError: the disk is full or not writable; the old generation stays current.
        """
        generation = f"{self._highest() + 1:06d}"
        directory = self.folder / generation
        try:
            shutil.rmtree(directory, ignore_errors=True)
            make_private(directory)
            save(directory)
            manifest = {
                "format": _FORMAT,
                "user": user,
                "fingerprint": dict(fingerprint),
                "extent": asdict(extent),
                "settings": dict(settings or {}),
                "costly": costly,
                "files": _hash_files(directory),
            }
            content = json.dumps(manifest, indent=1, sort_keys=True).encode()
            digest = hashlib.sha256(content).hexdigest()
            (directory / _MANIFEST).write_bytes(content)
            make_tree_private(directory)
            _sync_tree(directory)
            _replace(self._current, f"{generation} {digest}")
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
        """Remove every stored state, which the journal can rebuild; True if there was one.

        Raises:
            StorageError: one could not be removed.
        """
        held = self._current.exists()
        try:
            self._current.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self._current} cannot be removed: {error.strerror}.") from error
        self.remove_others()
        return held

    def remove_others(self) -> None:
        """Remove what a crash left of older and of half-written generations.

        Raises:
            StorageError: one could not be removed.
        """
        kept = self._name()
        for entry in self.folder.glob("[0-9]*"):
            if entry.name != kept:
                remove_tree(entry)
        with suppress(OSError):  # it holds a number and a digest
            self._current.with_suffix(".new").unlink(missing_ok=True)

    def _name(self) -> str | None:
        """The current generation's name; None if there is none or the pointer is damaged."""
        try:
            current = self.current()
        except CheckpointError:
            return None
        return current[0] if current is not None else None

    def _highest(self) -> int:
        return max(
            (int(entry.name) for entry in self.folder.glob("[0-9]*") if entry.name.isdigit()), default=0
        )


def remove_tree(path: Path) -> None:
    """Remove a folder with all in it, or a file; nothing if it is not there.

    Raises:
        StorageError: it could not be removed whole.
    """
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(
            f"{path} cannot be removed: {error.strerror}. It may hold forgotten turns."
        ) from error


def _short(value: object) -> str:
    """Return a value as a person compares it: of a digest, the beginning."""
    text = repr(value)
    return text if len(text) <= 32 else f"{text[:12]}...{text[0]}"


def _read_manifest(directory: Path, digest: str) -> Checkpoint:
    """Read a manifest that the pointer vouches for: what is in it is what was written."""
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
        found = Checkpoint(
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
    _check_types(found)
    return found


def _check_types(found: Checkpoint) -> None:
    extent = found.extent
    if not (
        isinstance(found.user, str)
        and isinstance(found.costly, bool)
        and all(isinstance(value, dict) for value in (found.fingerprint, found.settings, found.files))
        and all(isinstance(value, int) and value >= 0 for value in (extent.seq, extent.forgetting))
        and all(
            isinstance(value, str)
            for value in (extent.head, extent.forgetting_head, *found.settings.values())
        )
    ):
        raise CheckpointError("its manifest is not one of memagent's")


def _hash_files(directory: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / _MANIFEST:
            with path.open("rb") as file:
                found[path.relative_to(directory).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return found


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(directory: Path) -> None:
    for path in [*directory.rglob("*"), directory, directory.parent]:
        _sync(path)


def _replace(target: Path, content: str) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part."""
    fresh = target.with_suffix(".new")
    write_private(fresh, content.encode())
    _sync(fresh)
    fresh.replace(target)
    _sync(target.parent)
