"""Opening the journal's database, and turning its errors into ours at one place."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from memagent.agent.home import make_private
from memagent.backends.errors import MissingExtraError, StorageError

BUSY_SECONDS = 30


def open_engine(target: Path | str) -> Engine:
    """Connect to a SQLite file (created with mode 0600) or to a database by URL.

    SQLite runs in WAL mode with a busy timeout, full synchronisation (a committed turn survives a
    power cut) and ``secure_delete`` (what is deleted is overwritten). Writers take their lock when
    their transaction begins, so two of them queue instead of failing half-way.
    """
    url: URL | str
    if isinstance(target, Path):
        _touch(target)
        # Not as text: in a URL's text %2F would be a slash and ? would end the path.
        url = URL.create("sqlite", database=str(target))
    else:
        url = target
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise MissingExtraError("This journal URL", error.name or "?", "postgres") from error
    except ArgumentError as error:
        raise StorageError(
            f"MEMAGENT_JOURNAL is no database URL ({error}); expected something like postgresql+psycopg://user@host/name."
        ) from error
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine)
    return engine


def _touch(file: Path) -> None:
    make_private(file.parent)
    try:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageError(f"The journal {file} cannot be opened for writing: {error.strerror}.") from error


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection, _record) -> None:  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # SQLAlchemy, not sqlite3, begins transactions
        connection.execute(f"PRAGMA busy_timeout={1000 * BUSY_SECONDS}")
        _use_wal(connection)
        for pragma in ("synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        begin = connection.get_execution_options().get("begin", "BEGIN")
        if begin:
            connection.exec_driver_sql(begin)


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


def purge(engine: Engine) -> None:
    """Rewrite the database so that no file of it holds what was deleted.

    ``secure_delete`` zeroes a deleted row where it lies, but earlier page splits may have left
    copies; only a rewrite (SQLite's VACUUM) and an emptied write-ahead log are certain. Cost: the
    size of the journal, about half a second for ten million tokens. A database server's own logs and
    backups are its operator's to expire.
    """
    # VACUUM runs outside of a transaction
    outside: dict[str, Any] = (
        {"begin": ""} if engine.dialect.name == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
    )
    with translated(str(engine.url)), engine.connect().execution_options(**outside) as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("VACUUM")
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
            if busy:
                raise StorageError(
                    "The turns are forgotten, but another process keeps the journal's write-ahead log open, "
                    "which may still hold their bytes. Close it, then run `memagent doctor --mend`."
                )
        elif engine.dialect.name == "postgresql":
            connection.exec_driver_sql("VACUUM (FULL) turns")


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn database errors into StorageError with the way out."""
    try:
        yield
    except DBAPIError as error:
        said = str(error.orig)
        if "disk is full" in said or "disk I/O" in said:
            hint = (
                "The disk is full or failing: nothing of this step was stored. Free some space and repeat it."
            )
        elif "locked" in said:
            hint = f"Another process kept it locked for {BUSY_SECONDS} seconds. Nothing of this step was stored; try again."
        elif "readonly" in said or "unable to open" in said:
            hint = "It cannot be written. Mend its rights, or set MEMAGENT_HOME to a folder of your own."
        elif "not a database" in said or "malformed" in said:
            hint = "It is damaged and was left untouched. Restore it from a backup or an export; `memagent doctor` says more."
        else:
            hint = "Nothing of this step was stored."
        raise StorageError(f"The journal {where}: {said}. {hint}") from error
    except SQLAlchemyError as error:
        raise StorageError(f"The journal {where}: {error}") from error
