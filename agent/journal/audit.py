"""Proving a journal: no turn or attachment is missing or changed, and no forgotten one is back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Row, Table, and_, or_, select
from sqlalchemy.exc import SQLAlchemyError

from memagent.agent.journal.chain import GENESIS, forgetting_head, turn_head, turn_leaf
from memagent.agent.journal.database import Database
from memagent.agent.journal.item_index import item_faults
from memagent.agent.journal.reading import JournalReader
from memagent.agent.journal.records import Extent
from memagent.agent.journal.rows import PAGE, DamagedRowError, last_key, row_forgetting, row_turn
from memagent.agent.journal.schema import attachments, chain, forgettings, sessions, turns
from memagent.backends.errors import StorageError
from memagent.backends.records import Attachment

_MAX_FAULTS = 20
"""Faults that are named; there may be thousands."""

_TurnRow = tuple[Row[Any], tuple[Attachment, ...]]


def audit(journal: JournalReader, database: Database) -> list[str]:
    """Prove a journal by its chain of digests.

    Cost: reads the whole journal, about 50,000 turns a second, and the bytes of every attachment.

    Returns:
        What is wrong, in sentences, at most 20 of them; an empty list if nothing is.
    """
    faults: list[str] = []
    try:
        for fault in _faults(journal, database):
            faults.append(fault)
            if len(faults) == _MAX_FAULTS:
                faults.append("There may be more.")
                break
    except (StorageError, SQLAlchemyError) as error:
        faults.append(str(error))
    return faults


def _faults(journal: JournalReader, database: Database) -> Iterator[str]:
    """Yield what is wrong with the database's file, the chain of turns, the attachments, the index of items and the chain of forgettings."""
    if database.is_sqlite:
        with database.connect() as connection:
            messages = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check").all()]
        if messages != ["ok"]:
            yield f"The database is damaged: {messages[0]}"
            return
    extent = journal.extent()
    forgotten_seqs = {row.seq for row in _rows(journal, forgettings, "number")}
    yield from _chain_faults(journal, extent, forgotten_seqs)
    yield from _attachment_faults(journal, forgotten_seqs)
    yield from item_faults(journal)
    yield from _forgetting_faults(journal, extent)


def _chain_faults(journal: JournalReader, extent: Extent, forgotten_seqs: set[int]) -> Iterator[str]:
    """Walk along the chain and the turns together, both in order of their seq."""
    names = journal.fetch(select(sessions.c.name).where(sessions.c.user == journal.user))
    known_sessions = {row.name for row in names}
    turn_rows = _turn_rows(journal)
    current = next(turn_rows, None)
    head, last_seq = GENESIS, 0
    for link in _rows(journal, chain, "seq"):
        while current is not None and current[0].seq < link.seq:
            yield _outside_fault(current)
            current = next(turn_rows, None)
        head = turn_head(head, link.seq, link.turn_id, link.leaf)
        if head != link.head:
            yield f"The chain breaks at turn {link.seq}: its digest is not what was written."
            head = link.head
        last_seq = link.seq
        linked = current if current is not None and current[0].seq == link.seq else None
        if linked is not None:
            current = next(turn_rows, None)
        yield from _link_faults(link, linked, link.seq in forgotten_seqs, known_sessions)
    while current is not None:
        yield _outside_fault(current)
        current = next(turn_rows, None)
    if head.hex() != extent.head or last_seq > extent.seq:
        yield f"The chain ends at turn {last_seq}; the journal says that it reaches turn {extent.seq}: turns are missing at its end."


def _link_faults(
    link: Row[Any], turn_row: _TurnRow | None, is_forgotten: bool, known_sessions: set[str]
) -> Iterator[str]:
    """Hold a turn against its link of the chain."""
    if turn_row is None:
        if not is_forgotten:
            yield f"Turn {link.seq} is missing, and was not forgotten."
    elif is_forgotten:
        yield f"Turn {link.seq} was forgotten, and is back."
    else:
        yield from _turn_faults(link, *turn_row, known_sessions)


def _turn_faults(
    link: Row[Any], row: Row[Any], descriptors: tuple[Attachment, ...], known_sessions: set[str]
) -> Iterator[str]:
    """Hold a turn's content, number of attachments and session against its link of the chain."""
    try:
        turn = row_turn(row, descriptors)
    except DamagedRowError as error:
        yield str(error)
        return
    if len(descriptors) < row.attachment_count:
        yield f"Attachments of turn {turn.seq} are missing: it has {len(descriptors)} of {row.attachment_count}."
    elif not isinstance(row.salt, bytes) or turn.id != link.turn_id or turn_leaf(row.salt, turn) != link.leaf:
        what = "or one of its attachments " if row.attachment_count else ""
        yield f"Turn {turn.seq} {what}was changed after it was written."
    elif turn.session not in known_sessions:
        yield f"The session of turn {turn.seq} is missing."


def _outside_fault(turn_row: _TurnRow) -> str:
    return f"Turn {turn_row[0].seq} stands in no chain: it was put in from outside."


def _attachment_faults(journal: JournalReader, forgotten_seqs: set[int]) -> Iterator[str]:
    """Prove the bytes of every attachment, and find those that belong to no turn."""
    for row in _attachment_keys(journal):
        name = f"Attachment {row.position} of turn {row.seq}"
        if _is_counted(row):
            try:
                journal.attachment(row.seq, row.position)
            except DamagedRowError as error:
                yield str(error)
        elif row.attachment_count is None and row.seq in forgotten_seqs:
            yield f"{name} was forgotten with its turn, and is back."
        else:
            yield f"{name} belongs to no turn: it was put in from outside."


def _is_counted(row: Row[Any]) -> bool:
    """Say whether an attachment's turn is there and says that it has one at that position."""
    numbers = (row.position, row.attachment_count)
    return all(isinstance(number, int) for number in numbers) and row.position < row.attachment_count


def _attachment_keys(journal: JournalReader) -> Iterator[Row[Any]]:
    """Yield seq and position of every attachment in order, with the number that its turn has; None without a turn."""
    key = attachments.c
    own_turn = and_(turns.c.user == key.user, turns.c.seq == key.seq)
    query = (
        select(key.seq, key.position, turns.c.attachment_count)
        .select_from(attachments.outerjoin(turns, own_turn))
        .where(key.user == journal.user)
        .order_by(key.seq, key.position)
        .limit(PAGE)
    )
    seq, position = 0, -1
    page = journal.fetch(query)
    while page:
        seq, position = last_key(page, (seq, position), "seq", "position")
        yield from page
        later = or_(key.seq > seq, and_(key.seq == seq, key.position > position))
        page = journal.fetch(query.where(later))


def _forgetting_faults(journal: JournalReader, extent: Extent) -> Iterator[str]:
    """Yield what is wrong with the chain of forgettings: gaps, changed rows, a lost end."""
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
    if number != extent.forgetting or head.hex() != extent.forgetting_head:
        yield f"The journal has forgettings up to {number}; it says that it had {extent.forgetting}."


def _turn_rows(journal: JournalReader) -> Iterator[_TurnRow]:
    """Yield a user's turns in order of their seq, each with its attachments."""
    for page in _row_pages(journal, turns, "seq"):
        descriptors = journal.descriptors(page)
        yield from ((row, descriptors.get(row.seq, ())) for row in page)


def _rows(journal: JournalReader, table: Table, key: str) -> Iterator[Row[Any]]:
    """Yield a user's rows in order of ``key``."""
    for page in _row_pages(journal, table, key):
        yield from page


def _row_pages(journal: JournalReader, table: Table, key: str) -> Iterator[list[Row[Any]]]:
    """Yield a user's rows in order of ``key``, a page at a time."""
    column, last = table.c[key], -1
    while page := journal.fetch(
        select(table).where((table.c.user == journal.user) & (column > last)).order_by(column).limit(PAGE)
    ):
        (last,) = last_key(page, (last,), key)
        yield list(page)
