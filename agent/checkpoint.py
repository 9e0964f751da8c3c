"""Stored states of backends: written beside the old one, verified, switched in one step.

    <backend folder>/CURRENT            the current generation's name, its manifest's SHA-256
    <backend folder>/000042/            one generation: what the backend saved, and manifest.json
    <backend folder>/scratch/           working files of the open backend; never trusted again

A generation never changes after it is written. Its manifest holds what it covers of the journal, the
fingerprint of what made it, and the SHA-256 of every file, checked before a byte is handed to a
backend: databases and indexes may crash on damaged files instead of refusing them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memagent.agent.home import make_private, make_tree_private, write_private
from memagent.backends.errors import CheckpointError, StorageError
from memagent.backends.protocol import Fingerprint

_FORMAT = 1
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
    """A verified stored state.

    Attributes:
        last_id: what the journal had at ``position``, to notice a journal restored from a backup.
        settings: the backend's settings it was made with, as typed.
    """

    directory: Path
    position: Position
    manifest_sha256: str
    journal: str
    user: str
    fingerprint: Fingerprint
    last_id: str
    settings: dict[str, str]


class CheckpointStore:
    """The stored states of one backend for one user. Use it only while holding the backend's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._current = folder / "CURRENT"

    def current(self) -> tuple[str, str] | None:
        """Return the current generation's name and its manifest's SHA-256, or None if nothing was ever stored.

        Raises:
            CheckpointError: the pointer to it is damaged.
        """
        if not self._current.exists():
            return None
        said = self._current.read_text(encoding="utf-8", errors="replace")
        name, _, digest = said.strip().partition(" ")
        if not name.isdigit() or len(digest) != 64:
            raise CheckpointError(f"{self._current} names no generation but {said[:40]!r}")
        return name, digest

    def verify(self, journal_id: str, user: str, fingerprint: Fingerprint) -> Checkpoint | None:
        """Check the current generation and that it is ours; None if there is none.

        Raises:
            ForeignStateError: it was made by another model, or with other settings.
            CheckpointError: it is damaged, or belongs to another journal, user or format.
        """
        found = self.inspect()
        if found is None:
            return None
        if (found.journal, found.user) != (journal_id, user):
            raise CheckpointError("it belongs to another journal")
        keys = sorted({*found.fingerprint, *fingerprint})
        changed = [key for key in keys if found.fingerprint.get(key) != fingerprint.get(key)]
        if changed:
            raise ForeignStateError(
                "; ".join(
                    f"its {key} is {_short(found.fingerprint.get(key))}, now it is {_short(fingerprint.get(key))}"
                    for key in changed
                )
            )
        return found

    def inspect(self) -> Checkpoint | None:
        """Check the current generation byte by byte, whoever made it; None if there is none.

        Cost: reading the stored state once (about 1 GB a second).

        Raises:
            CheckpointError: it is damaged or of another format.
        """
        current = self.current()
        if current is None:
            return None
        name, digest = current
        directory = self.folder / name
        manifest = _read_manifest(directory, digest)
        if manifest["format"] != _FORMAT:
            raise CheckpointError(f"it has format {manifest['format']!r}, this memagent writes {_FORMAT}")
        files = _hash_files(directory)
        if files != manifest["files"]:
            wrong = sorted(
                path
                for path in {*files, *manifest["files"]}
                if files.get(path) != manifest["files"].get(path)
            )
            raise CheckpointError(
                f"{len(wrong)} of its files are not what was written, {wrong[0]} among them"
            )
        return Checkpoint(
            directory,
            Position(**manifest["position"]),
            digest,
            manifest["journal"],
            manifest["user"],
            manifest["fingerprint"],
            manifest["last_id"],
            manifest["settings"],
        )

    def write(
        self,
        save: Callable[[Path], None],
        *,
        journal_id: str,
        user: str,
        fingerprint: Fingerprint,
        position: Position,
        last_id: str = "",
        settings: Mapping[str, str] | None = None,
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
                "journal": journal_id,
                "user": user,
                "fingerprint": dict(fingerprint),
                "position": asdict(position),
                "last_id": last_id,
                "settings": dict(settings or {}),
                "files": _hash_files(directory),
            }
            content = json.dumps(manifest, indent=1, sort_keys=True).encode()
            digest = hashlib.sha256(content).hexdigest()
            (directory / _MANIFEST).write_bytes(content)
            make_tree_private(directory)
            _sync_tree(directory)
            _replace(self._current, f"{generation} {digest}")
        except BaseException as error:
            shutil.rmtree(directory, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise StorageError(
                f"The memory's state could not be stored in {self.folder}: {error.strerror or error}. "
                "No turn is lost: the journal has them, and the next start reads them again. Free some space."
            ) from error
        self._remove_others(generation)
        return Checkpoint(
            directory, position, digest, journal_id, user, fingerprint, last_id, dict(settings or {})
        )

    def discard(self) -> bool:
        """Remove every stored state, which the journal can rebuild; True if there was one."""
        held = self._current.exists()
        self._current.unlink(missing_ok=True)
        self._remove_others(keep=None)
        return held

    def fresh_scratch(self) -> Path:
        """Return an empty folder for working files; what an earlier process left there is removed."""
        scratch = self.folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        return make_private(scratch)

    def has_scratch(self) -> bool:
        return (self.folder / "scratch").exists()

    def drop_scratch(self) -> None:
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)

    def _highest(self) -> int:
        return max(
            (int(entry.name) for entry in self.folder.glob("[0-9]*") if entry.name.isdigit()), default=0
        )

    def _remove_others(self, keep: str | None) -> None:
        for entry in self.folder.glob("[0-9]*"):
            if entry.name != keep:
                shutil.rmtree(entry, ignore_errors=True)


def _short(value: object) -> str:
    """Return a value as a person compares it: of a digest, the beginning."""
    text = repr(value)
    return text if len(text) <= 32 else f"{text[:12]}...{text[0]}"


def _read_manifest(directory: Path, digest: str) -> dict[str, Any]:
    """Read a manifest that the pointer vouches for: what is in it is what was written."""
    try:
        content = (directory / _MANIFEST).read_bytes()
    except OSError as error:
        raise CheckpointError(f"its manifest cannot be read ({error})") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError("its manifest is not what was written")
    manifest: dict[str, Any] = json.loads(content)
    return manifest


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
