"""The keys of the server: which key is whose. The file ``keys.json`` in the home folder holds their SHA-256, never the keys."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

from memagent.agent.files import create_private, write_private
from memagent.agent.home import Home, folder_name
from memagent.agent.journal.records import check_name
from memagent.backends.errors import InputError, NotFoundError, StorageError

PREFIX = "memagent_"
"""How every key begins, so that one is recognised in a log or a repository."""
_KEY_BYTES = 32
_ID_DIGITS = 8
_FORMAT = 1
_LOCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the server knows of a key.

    Attributes:
        id: the first digits of the digest, to name the key by.
        sha256: digest of the key, 64 hexadecimal digits.
        user: whose memory it opens.
        created_at: in ISO 8601.
        user_header: the key is of a program that serves many people, and this header says for whom it asks: their memories
            are those of ``user/value``. None: the key is of one person.
    """

    id: str
    sha256: str
    user: str
    created_at: str
    user_header: str | None = None


class KeyStore:
    """The keys of one home. Other processes may add and revoke keys at any time.

    Args:
        home: the folders of the installation.
    """

    def __init__(self, home: Home) -> None:
        self._file = home.root / "keys.json"
        self._guard = threading.Lock()
        self._signature: tuple[int, ...] | None = None
        self._records: Mapping[str, KeyRecord] = {}

    def add(self, user: str, user_header: str | None = None) -> tuple[str, KeyRecord]:
        """Draw a key and store its digest.

        Args:
            user: whose memory the key opens.
            user_header: as in ``KeyRecord``.

        Returns:
            The key, which nothing stores, and what is stored of it.

        Raises:
            InputError: the name of the user or of the header cannot be used.
            StorageError: the file cannot be read or written.
        """
        check_name("user name", user)
        folder_name(user)
        if user_header is not None and not _is_header(user_header):
            raise InputError(
                f"{user_header!r} is no name of an HTTP header: letters, digits and - are expected."
            )
        key = PREFIX + secrets.token_urlsafe(_KEY_BYTES)
        digest = _digest(key)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record = KeyRecord(digest[:_ID_DIGITS], digest, user, now, user_header)
        self._change(lambda records: {**records, digest: record})
        return key, record

    def revoke(self, id_: str) -> KeyRecord:
        """Remove a key; a server that runs refuses it from its next request on.

        Args:
            id_: its id, as ``records`` returns it.

        Returns:
            What was stored of it.

        Raises:
            NotFoundError: there is no such key.
            StorageError: the file cannot be read or written.
        """
        revoked: list[KeyRecord] = []

        def remove(records: Mapping[str, KeyRecord]) -> dict[str, KeyRecord]:
            revoked.extend(record for record in records.values() if record.id == id_)
            if not revoked:
                raise NotFoundError("key", id_, (record.id for record in records.values()))
            return {digest: record for digest, record in records.items() if record.id != id_}

        self._change(remove)
        return revoked[0]

    def records(self) -> list[KeyRecord]:
        """Return what is stored of each key, the oldest first.

        Raises:
            StorageError: the file cannot be read.
        """
        return list(self._current().values())

    def find(self, key: str) -> KeyRecord | None:
        """Return what is stored of a key; None if there is no such key.

        The digest of a random key tells nothing about the key, so that no constant time is needed to look it up.

        Args:
            key: as a client sends it.

        Raises:
            StorageError: the file cannot be read.
        """
        return self._current().get(_digest(key))

    def _current(self) -> Mapping[str, KeyRecord]:
        """Return the records by digest, read anew if the file has changed."""
        with self._guard:
            try:
                status = self._file.stat()
            except FileNotFoundError:
                self._signature, self._records = None, {}
                return self._records
            except OSError as error:
                raise self._unreadable(error) from error
            signature = (status.st_mtime_ns, status.st_ino, status.st_size)
            if signature != self._signature:
                self._records = self._read()
                self._signature = signature
            return self._records

    def _read(self) -> dict[str, KeyRecord]:
        try:
            content = json.loads(self._file.read_bytes())
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']}, expected {_FORMAT}")
            records = [KeyRecord(**entry) for entry in content["keys"]]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self._unreadable(error) from error
        return {record.sha256: record for record in records}

    def _change(self, change: Callable[[Mapping[str, KeyRecord]], Mapping[str, KeyRecord]]) -> None:
        """Read the file, change what it holds and replace it; other processes wait."""
        folder = create_private(self._file.parent)
        try:
            with FileLock(folder / "keys.lock", timeout=_LOCK_SECONDS, mode=0o600):
                records = change(self._read())
                content = {"format": _FORMAT, "keys": [asdict(record) for record in records.values()]}
                fresh = self._file.with_name(f"keys.{uuid4().hex}")
                write_private(fresh, json.dumps(content, indent=1).encode())
                os.replace(fresh, self._file)
        except (OSError, TimeoutError) as error:
            raise StorageError(
                f"{self._file} cannot be written: {error}. Mend the folder's rights."
            ) from error

    def _unreadable(self, error: Exception) -> StorageError:
        return StorageError(
            f"The keys in {self._file} cannot be read: {error}. Restore the file, or remove it and add the keys anew."
        )


def home_secret(home: Home) -> bytes:
    """Return a secret of this home, for digests of texts that come without a key. The first call draws it.

    Args:
        home: the folders of the installation.

    Raises:
        StorageError: it cannot be read or written.
    """
    file = create_private(home.root) / "server.secret"
    try:
        if not file.exists():
            _write_once(file, secrets.token_bytes(_KEY_BYTES))
        return file.read_bytes()
    except OSError as error:
        raise StorageError(f"{file} cannot be used: {error}. Mend the folder's rights.") from error


def _write_once(file: Path, content: bytes) -> None:
    """Write a private file unless another process does so first."""
    fresh = file.with_name(f"{file.name}.{uuid4().hex}")
    write_private(fresh, content)
    try:
        os.link(fresh, file)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _is_header(name: str) -> bool:
    return name.isascii() and bool(name) and name.replace("-", "").isalnum()
