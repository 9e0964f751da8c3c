"""The journal's tables, their version, and the way from older versions to this one."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    select,
)

from memagent.backends.errors import StorageError

VERSION = 1

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
users = Table(
    "users",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("created_at", String(40), nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("last_forgetting", BigInteger, nullable=False),
)
sessions = Table(
    "sessions",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("created_at", String(40), nullable=False),
)
turns = Table(
    "turns",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(32), nullable=False),
    Column("session", String(255), nullable=False),
    Column("role", String(16), nullable=False),
    Column("speaker", Text),
    Column("text", Text, nullable=False),
    Column("created_at", String(40), nullable=False),
    Column("in_view", Text, nullable=False),
    Column("derived", Boolean, nullable=False),
    Index("turns_by_id", "user", "id", unique=True),
    Index("turns_by_session", "user", "session", "seq"),
)
forgettings = Table(
    "forgettings",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("turn_id", String(32), nullable=False),
    Column("forgotten_at", String(40), nullable=False),
    Index("forgettings_by_turn", "user", "turn_id"),
)
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("backend", String(64), primary_key=True),
    Column("host", String(255), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("forgetting", BigInteger, nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("created_at", String(40), nullable=False),
)

# MIGRATIONS[n] takes a journal of version n to version n + 1, inside the opening transaction.
MIGRATIONS: dict[int, Callable[[Connection], None]] = {}


def prepare(connection: Connection) -> None:
    """Create the tables, or bring an older journal up to date.

    Raises:
        StorageError: the journal was written by a newer memagent, or holds something else.
    """
    present = set(inspect(connection).get_table_names())
    if "meta" not in present:
        if present & {"users", "turns", "sessions"}:
            raise StorageError(
                "The database has tables of another program; give the journal a database of its own."
            )
        metadata.create_all(connection)
        connection.execute(
            meta.insert(), [{"key": "version", "value": str(VERSION)}, {"key": "id", "value": uuid4().hex}]
        )
        return
    version = int(connection.execute(select(meta.c.value).where(meta.c.key == "version")).scalar_one())
    if version > VERSION:
        raise StorageError(
            f"The journal has schema version {version}; this memagent knows up to {VERSION}. Upgrade memagent. "
            "Nothing was changed."
        )
    for old in range(version, VERSION):
        MIGRATIONS[old](connection)
        connection.execute(meta.update().where(meta.c.key == "version").values(value=str(old + 1)))
