"""Attachments of turns in the table ``attachments``: a row each, with the bytes.

A turn's row holds the number of its attachments, so reading turns without any needs no further query. Reading turns loads
media type, size and digest; the bytes are read one attachment at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from memagent.agent.journal.records import NewAttachment
from memagent.agent.journal.rows import READING_ERRORS, DamagedRowError
from memagent.agent.journal.schema import attachments
from memagent.backends.records import Attachment, Turn


def attachment_rows(user: str, turn: Turn, contents: Sequence[NewAttachment]) -> list[dict[str, object]]:
    """Return a turn's attachments as rows of the table ``attachments``."""
    return [
        {
            "user": user,
            "seq": turn.seq,
            "position": position,
            "media_type": descriptor.media_type,
            "size": descriptor.size,
            "sha256": descriptor.sha256,
            "content": new.content,
        }
        for position, (descriptor, new) in enumerate(zip(turn.attachments, contents, strict=True))
    ]


def read_descriptors(
    connection: Connection, user: str, turn_rows: Sequence[Row[Any]]
) -> dict[int, tuple[Attachment, ...]]:
    """Read the descriptors of the attachments of a page of turns.

    Args:
        connection: of the transaction that read the turns.
        user: whose journal.
        turn_rows: rows of the table ``turns``, at most a page.

    Returns:
        The attachments in order, by the seq of their turn. Turns without attachments are left out.

    Raises:
        DamagedRowError: a row holds no descriptor.
    """
    seqs = [row.seq for row in turn_rows if row.attachment_count]
    if not seqs:
        return {}
    table = attachments.c
    query = (
        select(table.seq, table.position, table.media_type, table.size, table.sha256)
        .where((table.user == user) & table.seq.in_(seqs))
        .order_by(table.seq, table.position)
    )
    descriptors: dict[int, tuple[Attachment, ...]] = {}
    for row in connection.execute(query).all():
        descriptors[row.seq] = (*descriptors.get(row.seq, ()), row_attachment(row))
    return descriptors


def row_attachment(row: Row[*tuple[Any, ...]]) -> Attachment:
    """Return the descriptor that a row holds.

    Raises:
        DamagedRowError: it holds none: a value has another type.
    """
    try:
        if not (isinstance(row.media_type, str) and isinstance(row.sha256, str)):
            raise TypeError("a text is not text")
        if not (isinstance(row.size, int) and isinstance(row.position, int)):
            raise TypeError("a number is no number")
        return Attachment(row.media_type, row.size, row.sha256)
    except READING_ERRORS as error:
        raise DamagedRowError(f"attachment {row.position} of turn {row.seq}", error) from error


def read_content(connection: Connection, user: str, seq: int, position: int) -> bytes | None:
    """Read the bytes of an attachment and hold them against its digest.

    Returns:
        The bytes, or None if there is no such attachment.

    Raises:
        DamagedRowError: the bytes are not those that were stored.
    """
    table = attachments.c
    key = (table.user == user) & (table.seq == seq) & (table.position == position)
    row = connection.execute(select(attachments).where(key)).first()
    if row is None:
        return None
    return row_content(row)


def row_content(row: Row[*tuple[Any, ...]]) -> bytes:
    """Return the bytes that a row of ``attachments`` holds, proved by their digest.

    Raises:
        DamagedRowError: the bytes are not those that were stored.
    """
    descriptor = row_attachment(row)
    content: bytes = row.content
    try:
        if not isinstance(content, bytes):
            raise TypeError("its content is not bytes")
        if len(content) != descriptor.size:
            raise ValueError(f"it has {len(content):,} bytes instead of {descriptor.size:,}")
        if hashlib.sha256(content).hexdigest() != descriptor.sha256:
            raise ValueError("its bytes have another digest than was written")
    except READING_ERRORS as error:
        raise DamagedRowError(f"attachment {row.position} of turn {row.seq}", error) from error
    return content
