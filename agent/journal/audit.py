"""Proving a journal: that no turn is missing or changed, and that no forgotten one is back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Row, Table, select
from sqlalchemy.exc import SQLAlchemyError

from memagent.agent.journal.chain import GENESIS, forgetting_head, turn_head, turn_leaf
from memagent.agent.journal.database import Database
from memagent.agent.journal.reading import JournalReader
from memagent.agent.journal.rows import PAGE, DamagedRowError, row_forgetting, row_turn
from memagent.agent.journal.schema import chain, forgettings, sessions, turns
from memagent.backends.errors import StorageError

_MOST = 20
"""Faults named; there may be thousands."""


def audit(journal: JournalReader, database: Database) -> list[str]:
    """Hold a journal against its chain of digests; return what is wrong, in sentences, an empty list if nothing is.

    Cost: reads the whole journal, about 50,000 turns a second.
    """
    faults: list[str] = []
    try:
        for fault in _faults(journal, database):
            faults.append(fault)
            if len(faults) == _MOST:
                faults.append("There may be more.")
                break
    except (StorageError, SQLAlchemyError) as error:
        faults.append(str(error))
    return faults


def _faults(journal: JournalReader, database: Database) -> Iterator[str]:
    if database.is_sqlite:
        with database.connect() as connection:
            messages = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check").all()]
        if messages != ["ok"]:
            yield f"The database is damaged: {messages[0]}"
            return
    reached = journal.extent()
    names = journal.fetch(select(sessions.c.name).where(sessions.c.user == journal.user))
    known_sessions = {row.name for row in names}
    tombstones = {row.seq for row in _rows(journal, forgettings, "number")}
    turn_rows = _rows(journal, turns, "seq")
    turn_row = next(turn_rows, None)
    head, last = GENESIS, 0
    for link in _rows(journal, chain, "seq"):
        while turn_row is not None and turn_row.seq < link.seq:
            yield f"Turn {turn_row.seq} stands in no chain: it was put in from outside."
            turn_row = next(turn_rows, None)
        head = turn_head(head, link.seq, link.turn_id, link.leaf)
        if head != link.head:
            yield f"The chain breaks at turn {link.seq}: its digest is not what was written."
            head = link.head
        last = link.seq
        here = turn_row is not None and turn_row.seq == link.seq
        if here and link.seq in tombstones:
            yield f"Turn {link.seq} was forgotten, and is back."
        elif here and turn_row is not None:
            yield from _changed(turn_row, link, known_sessions)
        elif link.seq not in tombstones:
            yield f"Turn {link.seq} is missing, and was not forgotten."
        if here:
            turn_row = next(turn_rows, None)
    while turn_row is not None:
        yield f"Turn {turn_row.seq} stands in no chain: it was put in from outside."
        turn_row = next(turn_rows, None)
    if head.hex() != reached.head or last > reached.seq:
        yield f"The chain ends at turn {last}; the journal says that it reaches turn {reached.seq}: turns are missing at its end."
    yield from _forgetting_faults(journal, reached.forgetting, reached.forgetting_head)


def _changed(row: Row[Any], link: Row[Any], known_sessions: set[str]) -> Iterator[str]:
    try:
        turn = row_turn(row)
    except DamagedRowError as error:
        yield str(error)
        return
    if not isinstance(row.salt, bytes) or turn.id != link.turn_id or turn_leaf(row.salt, turn) != link.leaf:
        yield f"Turn {turn.seq} was changed after it was written."
    elif turn.session not in known_sessions:
        yield f"The session of turn {turn.seq} is missing."


def _forgetting_faults(journal: JournalReader, last: int, last_head: str) -> Iterator[str]:
    head, number = GENESIS, 0
    for row in _rows(journal, forgettings, "number"):
        number += 1
        if row.number != number:
            yield f"Forgetting {number} is missing."
            number = row.number
        head = forgetting_head(head, row_forgetting(row))
        if head != row.head:
            yield f"Forgetting {row.number} was changed after it was written."
            head = row.head
    if number != last or head.hex() != last_head:
        yield f"The journal has forgettings up to {number}; it says that it had {last}."


def _rows(journal: JournalReader, table: Table, key: str) -> Iterator[Row[Any]]:
    """Yield a user's rows in order of ``key``, a page at a time."""
    column, last = table.c[key], -1
    while page := journal.fetch(
        select(table).where((table.c.user == journal.user) & (column > last)).order_by(column).limit(PAGE)
    ):
        yield from page
        last = getattr(page[-1], key)
