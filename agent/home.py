"""Where memagent stores files. It creates all of them with private modes; a home folder that exists keeps its mode.

MEMAGENT_HOME/                      default: the platform's user data folder
    place                           this home's id, for journals that several homes share
    users/<user>/journal.sqlite3    the journal (unless MEMAGENT_JOURNAL names a database by URL)
    users/<user>/journal.mark       how far the journal has reached
    users/<user>/backends/<name>/   checkpoints and lock of one backend
MEMAGENT_MODELS/                    default: the platform's user cache folder
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote
from uuid import uuid4

from memagent.agent.files import create_private, write_private
from memagent.backends.errors import InputError, SettingError

if TYPE_CHECKING:
    from memagent.agent.settings import UserSettings

# Capitals are escaped too: on many disks "Ana" and "ana" would be one folder.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_MAX_NAME_BYTES = 120


def folder_name(name: str) -> str:
    """Return a name as a folder name: small letters, digits and ``.-_`` stay, all else is percent-encoded.

    Args:
        name: name of a user.

    Raises:
        InputError: the name is empty or too long.
    """
    if not name.strip():
        raise InputError("The user name is empty: an empty user never means all users. Give a name.")
    try:
        encoded = "".join(
            char
            if char in _PLAIN or (char == "." and at > 0)
            else "".join(f"%{byte:02X}" for byte in char.encode())
            for at, char in enumerate(name)
        )
    except UnicodeEncodeError as error:
        raise InputError("The user name is not valid UTF-8.") from error
    if len(encoded) > _MAX_NAME_BYTES:
        raise InputError(
            f"The user name is too long: {len(encoded)} bytes when encoded, {_MAX_NAME_BYTES} at most."
        )
    return encoded


def _folder(value: str | None, variable: str, default: Callable[[], Path]) -> Path:
    """Return the folder that a setting names, made absolute; it need not exist yet.

    Args:
        value: of the setting; None or empty: the default.
        default: returns the default, which may not exist either.
        variable: the environment variable of that setting, for the message.
    """
    try:
        path = (Path(value) if value else default()).expanduser().absolute()
        str(path).encode()
        if path.is_dir() or not os.path.lexists(path):
            return path
        problem = "it is a link to nothing" if path.is_symlink() else "it is not a folder"
    except UnicodeEncodeError:
        problem = "it is not valid UTF-8"
    except RuntimeError:
        problem = "there is no such home folder"
    except FileNotFoundError:
        problem = "it is relative to the current folder, which has been deleted"
    except (OSError, ValueError) as error:  # too long, a part that may not be entered, a NUL character
        problem = f"{getattr(error, 'strerror', None) or error}"
    place = f"{variable} is not set, and its default"
    if value:
        name = variable if os.environ.get(variable) else f"The settings file's {variable[9:].lower()}"
        place = f"{name}={value:.200}"
    raise SettingError(f"{place} cannot be used: {problem}. Set {variable} to a folder by its full path.")


@dataclass(frozen=True)
class Home:
    """The folders of one installation.

    Attributes:
        root: ``MEMAGENT_HOME``.
        models: ``MEMAGENT_MODELS``.
        journal_url: a SQLAlchemy database URL shared by all users, or None for one SQLite file each.
    """

    root: Path
    models: Path
    journal_url: str | None = None

    @classmethod
    def from_environment(cls) -> Home:
        """Read ``MEMAGENT_HOME``, ``MEMAGENT_MODELS`` and ``MEMAGENT_JOURNAL``, but no settings file; nothing is created.

        Raises:
            SettingError, MissingExtraError: see ``from_settings``.
        """
        from memagent.agent.settings import UserSettings

        return cls.from_settings(UserSettings.from_environment())

    @classmethod
    def from_settings(cls, settings: UserSettings) -> Home:
        """Return the folders that settings name; nothing is created.

        Raises:
            SettingError: ``home`` or ``models`` cannot be a folder; says why.
            SettingError, MissingExtraError: ``journal`` is refused, see ``check_journal_url``.
        """
        from platformdirs import user_cache_path, user_data_path

        if settings.journal:
            from memagent.agent.journal.url import check_journal_url  # loads the database library

            check_journal_url(settings.journal)
        return cls(
            root=_folder(settings.home, "MEMAGENT_HOME", lambda: user_data_path("memagent")),
            models=_folder(
                settings.models, "MEMAGENT_MODELS", lambda: user_cache_path("memagent") / "models"
            ),
            journal_url=settings.journal or None,
        )

    def user_folder(self, user: str) -> Path:
        """Return the folder of a user."""
        return self.root / "users" / folder_name(user)

    def journal_file(self, user: str) -> Path:
        """Return the SQLite file of a user's journal, which is used unless ``journal_url`` is set."""
        return self.user_folder(user) / "journal.sqlite3"

    def mark_file(self, user: str) -> Path:
        """Return the file with the high-water mark of a user's journal; each database has a mark of its own."""
        if self.journal_url is None:
            return self.user_folder(user) / "journal.mark"
        name = hashlib.sha256(without_password(self.journal_url).encode()).hexdigest()[:12]
        return self.user_folder(user) / f"journal-{name}.mark"

    def place(self) -> str:
        """Return the id of this home among all homes that share its journal; empty if the journal is in the home.

        The first call draws the id and writes it to the file ``place``.

        The machine's name alone would not do: a container gets another name each time it starts.

        Raises:
            StorageError: the home folder cannot be created or written.
        """
        if self.journal_url is None:
            return ""
        file = create_private(self.root) / "place"
        if not file.exists():
            fresh = file.with_name(f"place.{uuid4().hex}")
            write_private(fresh, f"{socket.gethostname()} {uuid4().hex[:12]}".encode())
            try:
                os.link(fresh, file)  # of two processes, the first one creates it
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return file.read_text(encoding="utf-8").strip()

    def backend_folder(self, user: str, backend: str) -> Path:
        """Return the folder of a backend's stored state for a user."""
        return self.user_folder(user) / "backends" / backend

    def users(self) -> list[str]:
        """Return the names of the users that have a folder in this home, sorted."""
        folder = self.root / "users"
        return sorted(unquote(entry.name) for entry in folder.iterdir()) if folder.is_dir() else []

    def backends_of(self, user: str) -> list[str]:
        """Return the names of the backends that have a folder for a user, sorted."""
        folder = self.user_folder(user) / "backends"
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def without_password(url: str) -> str:
    """Return a database URL without its password."""
    before, at, host = url.rpartition("@")
    scheme, _, account = before.partition("://")
    return f"{scheme}://{account.partition(':')[0]}@{host}" if at else url
