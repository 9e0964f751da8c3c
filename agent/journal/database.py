"""Opening the journal's database, and turning its errors into StorageError.

Nothing but SQLite ever opens a SQLite file that may be in use. Closing any descriptor of a file drops all POSIX
locks that the process holds on it, SQLite's included (https://www.sqlite.org/howtocorrupt.html, section 2.2), after
which another process takes itself for the last one and deletes the write-ahead log with acknowledged turns in it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from memagent.agent.files import create_private
from memagent.backends.errors import StorageError

BUSY_SECONDS = 30
_EXAMPLE = "expected something like postgresql+psycopg://user@host/name"


class DamagedDatabaseError(StorageError):
    """The file is no database, or its content is not what was written."""


@dataclass
class Database:
    """A process's one engine for a database, shared by all who have it open. ``open_database`` makes it.

    Attributes:
        engine: SQLAlchemy's.
        where: the file, or the URL without its password, for messages.
    """

    engine: Engine
    where: str
    _key: tuple[str, bool]
    _user_count: int = 0
    _process: int = field(default_factory=os.getpid)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a SQLite file, not a database on a server."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def connect(self, **options: Any) -> Iterator[Connection]:
        """Open a connection of the pool, and turn its errors into StorageError.

        Args:
            options: SQLAlchemy execution options; ``begin`` is the statement that begins a SQLite transaction.

        Raises:
            StorageError: the database failed, or was opened before a fork of this process.
        """
        if self._process != os.getpid():
            raise StorageError(
                f"The journal {self.where} was opened by process {self._process}, which this one was forked from. "
                "Open it again here: a database connection cannot be inherited."
            )
        with storage_errors(self.where), self.engine.connect().execution_options(**options) as connection:
            yield connection

    def close(self) -> None:
        """Let go of the database; the last user's call closes its connections."""
        with _lock:
            self._user_count -= 1
            if self._user_count or self._process != os.getpid():
                return
            _open_databases.pop(self._key, None)
        self.engine.dispose()


_lock = threading.Lock()
_open_databases: dict[tuple[str, bool], Database] = {}
# Never closed in a forked child: that would touch the locks and the write-ahead log of the parent.
_inherited: list[Database] = []


def _after_fork() -> None:
    """Forget the parent's databases in a forked child, without closing them."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_open_databases.values())
    _open_databases.clear()


os.register_at_fork(after_in_child=_after_fork)


def open_database(target: Path | str, *, read_only: bool = False, may_create: bool = True) -> Database:
    """Connect to a SQLite file or to a database by URL, once in a process however often it is called.

    SQLite runs in WAL mode with a busy timeout, full synchronisation (a committed turn survives a
    power cut) and ``secure_delete`` (what is deleted is overwritten). Writers take their lock when
    their transaction begins, so two of them queue instead of failing half-way.

    Args:
        target: a SQLite file, or a database URL.
        read_only: nothing is created or written, so that a read-only disk will do. SQLite only.
        may_create: create a SQLite file that is missing, with mode 0600.

    Raises:
        StorageError: the file cannot be opened, the URL is none, or its driver is not installed.
    """
    file = _sqlite_file(target)
    key = (str(file.absolute()) if file else str(target), read_only and file is not None)
    with _lock:
        if key not in _open_databases:
            if file is not None:
                engine, where = _sqlite_engine(file, read_only=read_only, may_create=may_create), str(file)
            else:
                engine = _server_engine(str(target))
                where = engine.url.render_as_string()  # without its password
            _open_databases[key] = Database(engine, where, key)
        database = _open_databases[key]
        database._user_count += 1
        return database


def _sqlite_file(target: Path | str) -> Path | None:
    """Return the file that a path or a SQLite URL names, None for another database. Only the name is read, no file is touched.

    Raises:
        StorageError: the text is no database URL.
    """
    if isinstance(target, Path):
        return target
    try:
        url = make_url(target)
    except ArgumentError as error:
        raise StorageError(f"The journal's database URL cannot be read ({error}); {_EXAMPLE}.") from error
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _server_engine(url: str) -> Engine:
    """Return an engine for a database server; it connects when it is first used.

    Raises:
        StorageError: the URL is none, or its driver is not installed.
    """
    try:
        return create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        if make_url(url).get_dialect().name == "postgresql":
            raise StorageError(
                f"The journal's database URL asks for the driver {error.name}, which is not installed. Install psycopg with "
                "pip install 'memagent[postgres]' and write the URL as postgresql+psycopg://user@host/name."
            ) from error
        raise StorageError(
            f"The journal's database URL asks for the driver {error.name}, which is not installed. Install the package "
            "that holds it; SQLAlchemy's documentation of that database names it."
        ) from error
    except ArgumentError as error:
        raise StorageError(f"The journal's database URL cannot be used ({error}); {_EXAMPLE}.") from error


def _sqlite_engine(file: Path, *, read_only: bool, may_create: bool) -> Engine:
    """Return an engine for a SQLite file; its connections set modes and pragmas, and create a missing file if they may.

    Unless ``read_only``, the folder is created at once.

    Raises:
        StorageError: there is no file and none may be created, or it is no regular file.
    """
    if not read_only:
        create_private(file.parent)
    if file.exists() and not file.is_file():
        kind = "a folder" if file.is_dir() else "a pipe or a device"
        raise StorageError(f"The journal {file} cannot be opened: it is {kind}.")
    if not may_create and not file.exists():
        raise StorageError(f"The journal {file} does not exist.")
    mode = "ro" if read_only else "rwc" if may_create else "rw"

    def connect() -> sqlite3.Connection:
        # As a URI with the path quoted: a ? in it would end it otherwise.
        uri = f"file:{quote(str(file.absolute()))}?mode={mode}{'&immutable=1' if read_only and _never_changes(file) else ''}"
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None
        )
        try:
            if not read_only:
                connection.execute("PRAGMA schema_version")  # creates a missing file
                _make_file_private(file)
                _use_wal(connection)
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine(URL.create("sqlite"), creator=connect, poolclass=QueuePool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        begin = connection.get_execution_options().get("begin", "BEGIN")
        if begin:
            connection.exec_driver_sql(begin)

    return engine


# cell_size_check and trusted_schema: a damaged or hostile file is refused rather than believed.
_PRAGMAS = (
    "synchronous=FULL",
    "secure_delete=ON",
    "temp_store=MEMORY",
    "cell_size_check=ON",
    "trusted_schema=OFF",
)


def _never_changes(file: Path) -> bool:
    """Say whether a file lies where nobody can write and has no write-ahead log.

    SQLite reads a database in WAL mode without one only if it can create one, or is told that nothing changes.
    """
    log = file.with_name(file.name + "-wal")
    return not os.access(file.parent, os.W_OK) and not log.exists()


def _make_file_private(file: Path) -> None:
    """Take the rights of others away, by name: the log and its index get the same mode when SQLite creates them."""
    with suppress(OSError):  # somebody else's file: doctor reports its mode
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging; SQLite refuses at once, without its busy timeout, while another opens."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turn database errors into StorageError that says what to do."""
    try:
        yield
    except DBAPIError as error:
        raise _storage_error(where, str(error.orig).strip()) from error
    except SQLAlchemyError as error:
        raise StorageError(f"The journal {where}: {error}") from error
    except sqlite3.Error as error:  # of the driver's own, while a connection is made
        raise _storage_error(where, str(error)) from error
    except (ValueError, TypeError, OverflowError) as error:  # a value of another type than the column's
        raise _damaged_error(where, f"a value cannot be read ({error})") from error


def _storage_error(where: str, message: str) -> StorageError:
    """Return the error for a message of the database: damage, or what to do about a full, locked or read-only disk."""
    if "decode to UTF-8" in message:  # the message would quote the text
        return _damaged_error(where, "it holds text that is not valid UTF-8")
    if any(sign in message for sign in _SIGNS_OF_DAMAGE):
        return _damaged_error(where, message)
    if "disk is full" in message:
        hint = "The disk is full: nothing of this step was stored. Free some space and repeat it."
    elif "locked" in message:
        hint = f"Another process kept it locked for {BUSY_SECONDS} seconds. Nothing of this step was stored; try again."
    elif "readonly" in message or "unable to open" in message:
        hint = "It cannot be opened or written: mend the rights of the file and of its folder. Nothing of this step was stored."
    elif "constraint" in message.lower():
        hint = "Nothing of this step was stored."
    else:
        hint = "Look whether this step was stored (`memagent sessions list`) before you repeat it."
    return StorageError(f"The journal {where}: {message}. {hint}")


_SIGNS_OF_DAMAGE = ("not a database", "malformed", "no such table", "no such column", "file format")


def _damaged_error(where: str, what: str) -> DamagedDatabaseError:
    """Return the error of a damaged journal, with what to do."""
    return DamagedDatabaseError(
        f"The journal {where}: {what}. It, or the disk it lies on, is damaged; it was left untouched. Restore it from a backup or an export; "
        "`memagent doctor` says more."
    )
