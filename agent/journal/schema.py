"""The journal's tables and their version; an older journal is brought up to date when it is opened."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
    inspect,
    select,
)

from memagent.agent.journal.chain import GENESIS
from memagent.agent.journal.migrations import MIGRATIONS
from memagent.backends.errors import StorageError

VERSION = 5

_OPENING_LOCK = int.from_bytes(b"memagent", "big") >> 1

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
    Column("head", LargeBinary, nullable=False, default=GENESIS),
    Column("forgetting_head", LargeBinary, nullable=False, default=GENESIS),
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
    Column("salt", LargeBinary),
    Column("recalled", Text),
    Column("attachment_count", Integer, nullable=False, server_default="0"),
    Index("turns_by_id", "user", "id", unique=True),
    Index("turns_by_session", "user", "session", "seq"),
)
# The content comes last: SQLite then reads the other columns without the pages that it lies on.
attachments = Table(
    "attachments",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("media_type", String(255), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("content", LargeBinary, nullable=False),
)
forgettings = Table(
    "forgettings",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("turn_id", String(32), nullable=False),
    Column("forgotten_at", String(40), nullable=False),
    Column("head", LargeBinary),
    Index("forgettings_by_turn", "user", "turn_id"),
    Index("forgettings_by_seq", "user", "seq"),
)
# Turns that every prompt holds. The chain of digests does not cover pins.
pins = Table(
    "pins",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
)
# Turns that are items of a key-value store, by key; derived from their attachments. See item_index.py.
items = Table(
    "items",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("address", String(64), nullable=False),
    Column("namespace", Text, nullable=False),
    Column("created_at", String(40), nullable=False),
    Column("ttl_minutes", Float),
    Column("expires_at", String(40)),
    Column("outdated", Boolean, nullable=False),
    Index("items_by_address", "user", "address"),
)
# One row for every turn there ever was, forgotten or not; rows are never changed or deleted. See chain.py.
chain = Table(
    "chain",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("turn_id", String(32), nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("head", LargeBinary, nullable=False),
)
# What of a forgetting is still to be done, written with the forgetting's own commit. backend "" is the journal's file.
unfinished = Table(
    "unfinished",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("backend", String(64), primary_key=True),
    Column("place", String(255), primary_key=True),
    Column("forgetting", BigInteger, nullable=False),
)
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("user", String(255), primary_key=True),
    Column("backend", String(64), primary_key=True),
    Column("place", String(255), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("forgetting", BigInteger, nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("created_at", String(40), nullable=False),
)


class NoJournalError(StorageError):
    """The database has no tables yet: nothing was ever stored, or another process is making them."""


class OutdatedSchemaError(StorageError):
    """The journal has an older schema, which only a command that writes can bring up to date."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"The journal has schema version {version}; reading it needs version {VERSION}. "
            "Run `memagent doctor --mend` where it can be written, which brings it up to date."
        )


def prepare(connection: Connection, *, may_change: bool = True) -> None:
    """Create the tables, or bring an older journal up to date, inside the caller's transaction.

    Args:
        connection: within a transaction that commits when all is done.
        may_change: False only checks that the tables are there and of this version.

    Raises:
        OutdatedSchemaError: the journal is older and may not be changed.
        StorageError: the journal was written by a newer memagent, or holds something else.
    """
    if may_change and connection.dialect.name == "postgresql":
        # Two processes that open a new journal at once would both create its tables; SQLite's write lock is held already.
        connection.execute(select(func.pg_advisory_xact_lock(_OPENING_LOCK)))
    table_names = set(inspect(connection).get_table_names())
    if "meta" not in table_names:
        if table_names & {"users", "turns", "sessions"}:
            raise StorageError(
                "The database has tables of another program; give the journal a database of its own."
            )
        if not may_change:
            raise NoJournalError(
                "The database holds no journal yet; the first message to be remembered makes it."
            )
        metadata.create_all(connection)
        connection.execute(
            meta.insert(), [{"key": "version", "value": str(VERSION)}, {"key": "id", "value": uuid4().hex}]
        )
        return
    version = int(connection.execute(select(meta.c.value).where(meta.c.key == "version")).scalar_one())
    if version < VERSION and not may_change:
        raise OutdatedSchemaError(version)
    if version > VERSION:
        raise StorageError(
            f"The journal has schema version {version}; this memagent knows up to {VERSION}. Upgrade memagent. "
            "Nothing was changed."
        )
    for old_version in range(version, VERSION):
        MIGRATIONS[old_version](connection)
        connection.execute(meta.update().where(meta.c.key == "version").values(value=str(old_version + 1)))
