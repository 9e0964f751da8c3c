"""Items of a key-value store in the journal: an item is a turn with a namespace and a key.

The turn's text is what memories search. Its first attachment holds namespace, key and value as JSON, so items are chained,
exported, imported, forgotten and proved as turns are. The table ``items`` is an index of them by key, which is written in
the turn's transaction and can be derived from the attachments; see ``item_index``.

The turn of an item that is overwritten, deleted or expired is *outdated*: nothing returns it any more, and the next
forgetting removes it from the journal and from all memories.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from memagent.agent.journal.records import (
    MAX_ATTACHMENT_BYTES,
    MAX_NAME_CHARACTERS,
    NewAttachment,
    NewTurn,
)
from memagent.agent.journal.rows import READING_ERRORS
from memagent.backends.errors import InputError
from memagent.backends.records import Turn

MEDIA_TYPE = "application/vnd.memagent.item+json"
"""Media type of the attachment that makes a turn an item."""
ROLE = "tool"
"""Role of the turns: a program stored them. Memories and prompts then do not take them for what the user said."""
SESSION_PREFIX = "store/"
"""The session of an item is this and the labels of its namespace."""

_PLACEHOLDER = "(no text)"
_DIGEST_CHARACTERS = 12

Namespace = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to be stored.

    Attributes:
        namespace: labels, outermost first; at least one.
        key: of the item within the namespace.
        value: what JSON can represent; tuples become lists.
        text: what memories search; blank: nothing.
        index: which fields ``text`` was made of, as the program said; False: memories are not given the item.
        ttl_minutes: how long the item lives after it was stored or refreshed; None: until it is deleted.
    """

    namespace: Namespace
    key: str
    value: Mapping[str, Any]
    text: str
    index: bool | list[str] | None = None
    ttl_minutes: float | None = None


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item as the journal holds it.

    Attributes:
        seq: of its turn.
        namespace, key, value: as in ``NewItem``; the value is a new object at each reading.
        created_at: when this value was stored.
    """

    seq: int
    namespace: Namespace
    key: str
    value: dict[str, Any]
    created_at: datetime


def new_turn(item: NewItem, created_at: datetime) -> NewTurn:
    """Return the turn that holds an item.

    Raises:
        InputError: the value is not JSON or too large, or namespace, key or time to live cannot be stored.
    """
    where = f"The item {item.key!r} in {item.namespace!r}"
    if not item.namespace or {type(part) for part in (*item.namespace, item.key)} != {str}:
        raise InputError(
            f"{where}: expected a namespace of at least one text, and a text as key. Nothing was stored."
        )
    _check_ttl(where, item.ttl_minutes, created_at)
    try:
        value = dict(item.value)
        if fault := _json_fault(value):
            raise TypeError(fault)
        fields = {
            "namespace": item.namespace,
            "key": item.key,
            "value": value,
            "index": item.index,
            "ttl_minutes": item.ttl_minutes,
        }
        content = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where} cannot be stored as JSON: {error}. Nothing was stored.") from error
    if len(content) > MAX_ATTACHMENT_BYTES:
        raise InputError(
            f"{where} has {len(content):,} bytes as JSON; {MAX_ATTACHMENT_BYTES:,} at most. Nothing was stored."
        )
    text = item.text.replace("\0", " ").encode(errors="replace").decode()
    return NewTurn(
        session_of(item.namespace),
        ROLE,
        text if text.strip() else _PLACEHOLDER,
        created_at=created_at,
        derived=item.index is False or not text.strip(),  # memories are not given such turns
        attachments=(NewAttachment(MEDIA_TYPE, content),),
    )


def session_of(namespace: Namespace) -> str:
    """Return the name of the session for a namespace: its labels after ``store/``; a digest if that is no proper name."""
    name = SESSION_PREFIX + "/".join(namespace)
    if (
        len(name) <= MAX_NAME_CHARACTERS
        and name.isprintable()
        and not any("/" in label for label in namespace)
    ):
        return name
    digest = hashlib.sha256(labels_json(namespace).encode()).hexdigest()[:_DIGEST_CHARACTERS]
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return f"{printable[: MAX_NAME_CHARACTERS - _DIGEST_CHARACTERS - 1]}-{digest}"


def address_of(namespace: Namespace, key: str) -> str:
    """Return the digest of namespace and key by which the index finds an item. A database limits the size of keys."""
    return hashlib.sha256(labels_json([namespace, key]).encode()).hexdigest()


def is_item(turn: Turn) -> bool:
    """Say whether a turn holds an item."""
    return bool(turn.attachments) and turn.attachments[0].media_type == MEDIA_TYPE


def read_payload(content: bytes) -> dict[str, Any] | None:
    """Return what the attachment of an item holds; None if it holds no item."""
    try:
        payload = json.loads(content)
        namespace, key, value, ttl = (payload[name] for name in ("namespace", "key", "value", "ttl_minutes"))
        if not isinstance(namespace, list) or {type(part) for part in (*namespace, key)} != {str}:
            return None
        if not namespace or not isinstance(value, dict):
            return None
        _check_ttl("", ttl, datetime.now(UTC))
    except (*READING_ERRORS, KeyError, InputError):
        return None
    return {"namespace": tuple(namespace), "key": key, "value": value, "ttl_minutes": ttl}


def labels_json(labels: Sequence[Any]) -> str:
    """Return labels as JSON in ASCII, the same text for the same labels."""
    return json.dumps(labels)


def later(since: datetime, minutes: float) -> datetime:
    """Return the time so many minutes later, in UTC.

    Raises:
        OverflowError: it is after the year 9999.
    """
    return since.astimezone(UTC) + timedelta(minutes=minutes)


# inside


def _check_ttl(where: str, minutes: float | None, since: datetime) -> None:
    """Refuse a time to live that is no number, negative, or ends after the year 9999."""
    if minutes is None:
        return
    usable = isinstance(minutes, int | float) and not isinstance(minutes, bool) and math.isfinite(minutes)
    try:
        if usable and minutes >= 0:
            later(since, minutes)
            return
    except OverflowError:
        pass
    raise InputError(
        f"{where} has a time to live of {minutes!r} minutes; expected a number from 0, or None for no limit. "
        "Nothing was stored."
    )


def _json_fault(value: object, path: str = "value") -> str:
    """Return what in a value JSON would change silently: keys that are not text; an empty text if nothing."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                return f"{path} has the key {key!r}, which is no text"
            if fault := _json_fault(part, f"{path}[{key!r}]"):
                return fault
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            if fault := _json_fault(part, f"{path}[{place}]"):
                return fault
    return ""
