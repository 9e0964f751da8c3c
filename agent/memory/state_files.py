"""Files and folders of a stored state: hashed, written through to the disk, replaced in one step, removed."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from memagent.agent.files import write_private
from memagent.backends.errors import StorageError


def remove_tree(path: Path) -> None:
    """Remove a folder with its content, or a file. A missing path is ignored.

    Args:
        path: a folder or a file.

    Raises:
        StorageError: it could not be removed completely.
    """
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(
            f"{path} cannot be removed: {error.strerror}. It may hold forgotten turns."
        ) from error


def hash_files(directory: Path, *, ignore: str) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, in hexadecimal, by its path in the folder.

    Args:
        directory: the folder.
        ignore: the name of a file in it that is left out.
    """
    digests: dict[str, str] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / ignore:
            with path.open("rb") as file:
                digests[path.relative_to(directory).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return digests


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Wait until a folder, all that is in it, and its own name are on the disk."""
    for path in [*directory.rglob("*"), directory, directory.parent]:
        sync(path)


def replace_file(target: Path, content: str) -> None:
    """Write a small file atomically: a reader sees the old content or the new content."""
    fresh = target.with_suffix(".new")
    write_private(fresh, content.encode())
    sync(fresh)
    fresh.replace(target)
    sync(target.parent)
