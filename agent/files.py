"""Files and folders that only their owner can read."""

from __future__ import annotations

import os
from pathlib import Path

from memagent.backends.errors import StorageError


def create_private(path: Path, variable: str = "MEMAGENT_HOME") -> Path:
    """Create a folder, and the missing ones above it, with mode 0700. A folder that exists keeps its mode.

    Args:
        path: the folder.
        variable: the environment variable that says where this folder is, for the message.

    Returns:
        The folder.

    Raises:
        StorageError: it cannot be created or written to.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder {path} cannot be created ({error.strerror or error}). "
            f"Set {variable} to a folder that this account can write to."
        ) from error
    if not path.is_dir():
        raise StorageError(f"{path} is not a folder. Set {variable} to one.")
    if not os.access(path, os.W_OK | os.X_OK):
        raise StorageError(
            f"The folder {path} is not writable for this account. "
            f"Change its rights, or set {variable} to a folder of your own."
        )
    return path


def make_tree_private(folder: Path) -> None:
    """Set mode 0700 for a folder and those in it, and mode 0600 for files: libraries create files with wider modes."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)


def write_private(file: Path, content: bytes) -> None:
    """Write a file with mode 0600.

    Args:
        file: created, or overwritten.
        content: its new content.
    """
    with os.fdopen(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as target:
        target.write(content)
