"""The way from older journals to this memagent's, one step a schema version. A step is never changed once released."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

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
    Row,
    String,
    Table,
    Text,
    select,
    text,
    update,
)

from memagent.agent.journal.chain import GENESIS, forgetting_head, new_salt, turn_head, turn_leaf
from memagent.agent.journal.records import Forgetting
from memagent.agent.journal.rows import last_key
from memagent.backends.records import Turn

_PAGE = 1000


def _add_chain(connection: Connection) -> None:
    """1 to 2: a salt for every turn, the chain of digests, and the list of unfinished forgettings.

    Turns forgotten before stay out of the chain: nothing is left to digest.
    Cost: about 30,000 turns a second.
    """
    binary = LargeBinary().compile(connection.dialect)
    for table, column in (
        ("turns", "salt"),
        ("forgettings", "head"),
        ("users", "head"),
        ("users", "forgetting_head"),
    ):
        connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {column} {binary}"))
    connection.execute(text('CREATE INDEX forgettings_by_seq ON forgettings ("user", seq)'))
    metadata = MetaData()
    chain = Table(
        "chain",
        metadata,
        Column("user", String(255), primary_key=True),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        Column("turn_id", String(32), nullable=False),
        Column("leaf", LargeBinary, nullable=False),
        Column("head", LargeBinary, nullable=False),
    )
    Table(
        "unfinished",
        metadata,
        Column("user", String(255), primary_key=True),
        Column("backend", String(64), primary_key=True),
        Column("place", String(255), primary_key=True),
        Column("forgetting", BigInteger, nullable=False),
    )
    metadata.create_all(connection)
    # States are noted by the home that keeps them from now on, no longer by the machine's name, which may change.
    connection.execute(text("DELETE FROM checkpoints"))
    connection.execute(text("ALTER TABLE checkpoints RENAME COLUMN host TO place"))
    old = MetaData()
    users, turns, forgettings = (
        Table(name, old, autoload_with=connection) for name in ("users", "turns", "forgettings")
    )
    for user in connection.execute(select(users.c.name)).scalars().all():
        head = GENESIS
        for row in _rows(connection, turns, turns.c.seq, user):
            turn, salt = _turn(row), new_salt()
            leaf = turn_leaf(salt, turn)
            head = turn_head(head, turn.seq, turn.id, leaf)
            where = (turns.c.user == user) & (turns.c.seq == turn.seq)
            connection.execute(update(turns).where(where).values(salt=salt))
            connection.execute(
                chain.insert().values(user=user, seq=turn.seq, turn_id=turn.id, leaf=leaf, head=head)
            )
        of_forgettings = GENESIS
        for row in _rows(connection, forgettings, forgettings.c.number, user):
            forgetting = Forgetting(
                row.number, row.seq, row.turn_id, datetime.fromisoformat(row.forgotten_at)
            )
            of_forgettings = forgetting_head(of_forgettings, forgetting)
            where = (forgettings.c.user == user) & (forgettings.c.number == row.number)
            connection.execute(update(forgettings).where(where).values(head=of_forgettings))
        values = {"head": head, "forgetting_head": of_forgettings}
        connection.execute(update(users).where(users.c.name == user).values(**values))


def _add_attachments(connection: Connection) -> None:
    """2 to 3: which turns in view were recalled, and attachments. No turn has either yet, so no leaf changes.

    Cost: none that grows with the journal.
    """
    connection.execute(text("ALTER TABLE turns ADD COLUMN recalled TEXT"))
    connection.execute(text("ALTER TABLE turns ADD COLUMN attachment_count INTEGER DEFAULT 0 NOT NULL"))
    metadata = MetaData()
    Table(
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
    metadata.create_all(connection)


def _add_pins(connection: Connection) -> None:
    """3 to 4: pinned turns. None is pinned yet.

    Cost: none that grows with the journal.
    """
    metadata = MetaData()
    Table(
        "pins",
        metadata,
        Column("user", String(255), primary_key=True),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
    )
    metadata.create_all(connection)


def _add_items(connection: Connection) -> None:
    """4 to 5: the index of items. No turn is one yet.

    Cost: none that grows with the journal.
    """
    metadata = MetaData()
    Table(
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
    metadata.create_all(connection)


def _rows(connection: Connection, table: Table, key: Column[Any], user: str) -> Iterator[Row[Any]]:
    """Yield a user's rows in order of ``key``, a page at a time."""
    last = 0
    while page := connection.execute(
        select(table).where((table.c.user == user) & (key > last)).order_by(key).limit(_PAGE)
    ).all():
        (last,) = last_key(page, (last,), key.name)
        yield from page


def _turn(row: Row[Any]) -> Turn:
    """Return the turn of a row of schema version 1."""
    return Turn(
        seq=row.seq,
        id=row.id,
        session=row.session,
        role=row.role,
        text=row.text,
        created_at=datetime.fromisoformat(row.created_at),
        speaker=row.speaker,
        in_view=tuple(json.loads(row.in_view)),
        derived=bool(row.derived),
    )


# MIGRATIONS[n] takes a journal of version n to version n + 1, inside the opening transaction.
MIGRATIONS: dict[int, Callable[[Connection], None]] = {
    1: _add_chain,
    2: _add_attachments,
    3: _add_pins,
    4: _add_items,
}
