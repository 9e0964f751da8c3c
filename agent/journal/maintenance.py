"""Rewriting a database without what was deleted, and copying it while it is in use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from memagent.agent.journal.database import Database
from memagent.backends.errors import StorageError


class UnpurgedError(StorageError):
    """Turns are forgotten, but the journal's file could not be rewritten yet and may still hold their bytes."""


def purge(database: Database) -> None:
    """Rewrite the database so that no file of it holds what was deleted.

    ``secure_delete`` zeroes a deleted row where it lies, but earlier page splits may have left
    copies; only a rewrite (SQLite's VACUUM) and an emptied write-ahead log are certain. Cost: the
    size of the journal, about half a second for ten million tokens. A database server's own logs and
    backups are its operator's to expire.

    Raises:
        StorageError: it could not be rewritten, or a reader keeps the old log open; it can be repeated.
    """
    # VACUUM runs outside of a transaction
    outside: dict[str, Any] = {"begin": ""} if database.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
    with database.connect(**outside) as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("VACUUM")
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
            if busy:
                raise StorageError(
                    "Another process keeps the journal's write-ahead log open, which may still hold the bytes of "
                    "forgotten turns."
                )
        elif database.engine.dialect.name == "postgresql":
            connection.exec_driver_sql("VACUUM (FULL) turns, attachments, items")


def copy_database(database: Database, file: Path) -> None:
    """Write a SQLite database as of now into a new file of mode 0600, while others go on writing.

    Raises:
        StorageError: the database is not SQLite, or failed.
        OSError: the file exists already or cannot be written.
    """
    if not database.is_sqlite:
        raise StorageError(
            f"The journal {database.where} is kept by a database server; back it up with the server's own tool, "
            "for instance pg_dump."
        )
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with database.connect(begin="") as connection:
            connection.exec_driver_sql("VACUUM INTO ?", (str(file),))
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    with file.open("rb") as copy:
        os.fsync(copy.fileno())
