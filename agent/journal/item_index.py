"""The index of items: the table ``items``, by which items are found by namespace and key. See ``items``.

Functions that take a connection belong to the transaction that changes turns; the others read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, or_, select, update

from memagent.agent.journal.attachments import row_content
from memagent.agent.journal.chain import timestamp
from memagent.agent.journal.items import (
    MEDIA_TYPE,
    Namespace,
    StoredItem,
    address_of,
    is_item,
    labels_json,
    later,
    read_payload,
)
from memagent.agent.journal.records import NewTurn
from memagent.agent.journal.rows import (
    LARGEST_SEQ,
    PAGE,
    READING_ERRORS,
    DamagedRowError,
    last_key,
    pages,
    row_time,
    seq_pages,
)
from memagent.agent.journal.schema import attachments, items
from memagent.backends.records import Turn

if TYPE_CHECKING:
    from memagent.agent.journal.reading import JournalReader

_OWN_ATTACHMENT = (
    (attachments.c.user == items.c.user) & (attachments.c.seq == items.c.seq) & (attachments.c.position == 0)
)
"""Joins an item's row of the index with the attachment that holds the item."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A current item without its value.

    Attributes:
        seq: of its turn.
        expires: whether it has a time to live.
    """

    seq: int
    expires: bool


# what a transaction does


def index_row(user: str, turn: Turn, new: NewTurn) -> dict[str, Any] | None:
    """Return the row of the table ``items`` for a new turn; None if the turn is no item.

    An imported item lives as long as its time to live from now on.
    """
    payload = read_payload(new.attachments[0].content) if is_item(turn) else None
    if payload is None:
        return None
    ttl = payload["ttl_minutes"]
    since = datetime.now(UTC) if new.id else turn.created_at
    return {
        "user": user,
        "seq": turn.seq,
        "address": address_of(payload["namespace"], payload["key"]),
        "namespace": labels_json(payload["namespace"]),
        "created_at": timestamp(turn.created_at),
        "ttl_minutes": ttl,
        "expires_at": None if ttl is None else timestamp(later(since, ttl)),
        "outdated": False,
    }


def insert_rows(connection: Connection, user: str, rows: Sequence[dict[str, Any]]) -> None:
    """Index new items. Each outdates the current item of its key, unless it is older than that: then it is outdated itself.

    Args:
        connection: of the transaction that stores the turns.
        user: whose journal.
        rows: of ``index_row``, in journal order.
    """
    current = _current_rows(connection, user, [row["address"] for row in rows])
    outdated_seqs: list[int] = []
    for row in rows:
        older, newer = current.get(row["address"]), row
        if older is not None and older["created_at"] > newer["created_at"]:
            older, newer = newer, older
        if older is not None:
            outdated_seqs.append(older["seq"])
        current[row["address"]] = newer
    if rows:
        connection.execute(insert(items), list(rows))
    mark_outdated(connection, user, outdated_seqs)


def mark_outdated(connection: Connection, user: str, seqs: Sequence[int]) -> None:
    """Mark items as outdated."""
    for page in pages(seqs):
        chosen = (items.c.user == user) & items.c.seq.in_(page)
        connection.execute(update(items).where(chosen).values(outdated=True))


def delete_items(connection: Connection, user: str, names: Sequence[tuple[Namespace, str]]) -> int:
    """Outdate the current items of these namespaces and keys, and return how many there were."""
    addresses = [address_of(namespace, key) for namespace, key in names]
    seqs = [row["seq"] for row in _current_rows(connection, user, addresses).values()]
    mark_outdated(connection, user, seqs)
    return len(seqs)


def remove_rows(connection: Connection, user: str, seqs: Sequence[int]) -> None:
    """Remove turns from the index, at most a page."""
    connection.execute(delete(items).where((items.c.user == user) & items.c.seq.in_(seqs)))


def refresh(connection: Connection, user: str, seqs: Collection[int], now: datetime) -> None:
    """Let the time to live of items begin anew."""
    for page in seq_pages(seqs):
        chosen = (items.c.user == user) & items.c.seq.in_(page)
        living = select(items.c.seq, items.c.ttl_minutes).where(chosen & items.c.ttl_minutes.is_not(None))
        for row in connection.execute(living).all():
            own_row = (items.c.user == user) & (items.c.seq == row.seq)
            expires_at = timestamp(later(now, row.ttl_minutes))
            connection.execute(update(items).where(own_row).values(expires_at=expires_at))


# reading


def read_entries(
    journal: JournalReader,
    now: datetime,
    *,
    prefix: Namespace = (),
    addresses: Sequence[str] | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> list[IndexEntry]:
    """Return the current items, the last stored first, without their values.

    Args:
        journal: the user's journal.
        now: the time; items that have expired by then are left out.
        prefix: the first labels of the namespaces.
        addresses: of ``address_of``, at most a page; the items are in no order then. None: all.
        limit: most items returned; None: all.
        offset: how many are left out first; only with a limit. Both may be larger than a database's integers.
    """
    query = select(items.c.seq, items.c.expires_at).where((items.c.user == journal.user) & ~_is_outdated(now))
    if prefix:
        # Compared as text of equal length, because databases sort and match text by rules of their own.
        own, below = labels_json(prefix), f"{labels_json(prefix)[:-1]}, "
        query = query.where(
            or_(items.c.namespace == own, func.substr(items.c.namespace, 1, len(below)) == below)
        )
    if addresses is not None:
        query = query.where(items.c.address.in_(addresses))
    else:  # with an order, SQLite would walk through all items instead of using the index of addresses
        query = query.order_by(items.c.seq.desc())
    if limit is not None:
        query = query.limit(min(limit, LARGEST_SEQ)).offset(min(offset, LARGEST_SEQ))
    return [IndexEntry(row.seq, row.expires_at is not None) for row in journal.fetch(query)]


def read_items(journal: JournalReader, seqs: Sequence[int]) -> Iterator[StoredItem]:
    """Yield items with their values in the order of their seqs as given, a page at a time; those not there are left out.

    Raises:
        DamagedRowError: a value is not what was stored.
    """
    for page in pages(seqs):
        query = (
            select(attachments, items.c.created_at)
            .select_from(items.join(attachments, _OWN_ATTACHMENT))
            .where((items.c.user == journal.user) & items.c.seq.in_(page))
        )
        rows = {row.seq: row for row in journal.fetch(query)}
        for row in (rows[seq] for seq in page if seq in rows):
            payload = read_payload(row_content(row))
            if payload is None:
                raise DamagedRowError(f"item of turn {row.seq}", ValueError("its attachment holds no item"))
            yield StoredItem(
                row.seq, payload["namespace"], payload["key"], payload["value"], row_time(row.created_at)
            )


def read_namespaces(journal: JournalReader, now: datetime) -> list[Namespace]:
    """Return the namespaces that hold a current item, in no order."""
    query = select(items.c.namespace).where((items.c.user == journal.user) & ~_is_outdated(now)).distinct()
    return [_namespace(row.namespace) for row in journal.fetch(query)]


def outdated_seqs(journal: JournalReader, among: Collection[int] | None = None) -> set[int]:
    """Return the seqs of outdated items.

    Cost: reads the index of the given turns; of all, 20 ms for each 50,000 items.

    Args:
        journal: the user's journal.
        among: seqs of turns; None: all.
    """
    query = select(items.c.seq).where((items.c.user == journal.user) & _is_outdated(datetime.now(UTC)))
    if among is None:
        return {row.seq for row in journal.fetch(query)}
    return {row.seq for page in seq_pages(among) for row in journal.fetch(query.where(items.c.seq.in_(page)))}


def item_faults(journal: JournalReader) -> Iterator[str]:
    """Yield what is wrong with the index of items, in sentences: it must name what the attachments hold.

    Cost: reads the value of every item, one at a time.
    """
    for row in _item_rows(journal):
        try:
            payload = read_payload(journal.attachment(row.seq, 0))
        except DamagedRowError:  # the attachment has a fault of its own
            continue
        if payload is None:
            if row.address is not None:
                yield _no_item_fault(row.seq)
            continue
        namespace, key, ttl = (payload[name] for name in ("namespace", "key", "ttl_minutes"))
        if row.address is None:
            yield f"Turn {row.seq} is an item, and the index of items lacks it."
        elif (row.address, row.namespace) != (address_of(namespace, key), labels_json(namespace)):
            yield f"The index of items has another key for turn {row.seq} than the turn itself."
        elif row.ttl_minutes != ttl:
            yield f"The index of items has another time to live for turn {row.seq} than the turn itself."
    without_item = (
        select(items.c.seq)
        .select_from(items.outerjoin(attachments, _OWN_ATTACHMENT & (attachments.c.media_type == MEDIA_TYPE)))
        .where((items.c.user == journal.user) & attachments.c.seq.is_(None))
        .order_by(items.c.seq)
    )
    yield from (_no_item_fault(row.seq) for row in journal.fetch(without_item))


# inside


def _is_outdated(now: datetime) -> ColumnElement[bool]:
    has_expired = items.c.expires_at.is_not(None) & (items.c.expires_at <= timestamp(now))
    return items.c.outdated | has_expired


def _item_rows(journal: JournalReader) -> Iterator[Row[Any]]:
    """Yield the turns with an item's attachment in order: seq, and what the index has; None where it lacks the turn."""
    query = (
        select(attachments.c.seq, items.c.address, items.c.namespace, items.c.ttl_minutes)
        .select_from(attachments.outerjoin(items, _OWN_ATTACHMENT))
        .where(
            (attachments.c.user == journal.user)
            & (attachments.c.position == 0)
            & (attachments.c.media_type == MEDIA_TYPE)
        )
        .order_by(attachments.c.seq)
        .limit(PAGE)
    )
    last = 0
    while page := journal.fetch(query.where(attachments.c.seq > last)):
        (last,) = last_key(page, (last,), "seq")
        yield from page


def _no_item_fault(seq: int) -> str:
    return f"The index of items has turn {seq}, which is no item."


def _current_rows(connection: Connection, user: str, addresses: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return address, seq and time of the items that are not outdated, by address."""
    current: dict[str, dict[str, Any]] = {}
    columns = (items.c.address, items.c.seq, items.c.created_at)
    for page in pages(sorted(set(addresses))):
        chosen = (items.c.user == user) & items.c.address.in_(page) & ~items.c.outdated
        for row in connection.execute(select(*columns).where(chosen)).mappings():
            current[row["address"]] = dict(row)
    return current


def _namespace(text: str) -> Namespace:
    """Return the namespace that a row holds.

    Raises:
        DamagedRowError: it holds none.
    """
    try:
        return tuple(str(label) for label in json.loads(text))
    except READING_ERRORS as error:
        raise DamagedRowError("index of items", error) from error
