"""Writing another program's export as one of memagent, which ``export.load`` adds to a journal.

The file is read once, an item at a time, into a nameless file; nothing is stored in the journal before all of it was read. Then the
conversations are written in the order of their times, whatever their order in the file: newer turns supersede older ones. The id of
a turn is a digest of the format, the conversation and the message, so importing a file twice adds nothing.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from memagent.agent.journal.chain import timestamp
from memagent.agent.journal.chat_exports.conversation import (
    NO_TEXT,
    OTHER_ROLES,
    Conversation,
    Message,
    fault,
)
from memagent.agent.journal.chat_exports.documents import items
from memagent.agent.journal.chat_exports.formats import Format, recognize
from memagent.agent.journal.chat_exports.session_names import SessionNames
from memagent.agent.journal.lines import Header
from memagent.agent.journal.proof import Source
from memagent.agent.journal.reading import JournalReader
from memagent.backends.errors import InputError

MAX_TEXT_BYTES = 16 * 2**20
"""Most bytes of one message."""
_DUPLICATES = "of conversations that stand there twice"
_SHOWN_CHARACTERS = 40
_NAMING_IDS = 200
"""A session is recognized by the first of its turns that the journal has; of so many, one was not forgotten."""


@dataclass(frozen=True, slots=True)
class Options:
    """What of an export is imported, and how.

    Attributes:
        roles: of the messages that are imported.
        owner: whose conversations, where the export has several people's; None: it must have only one's.
        title: of a file whose format has no titles.
    """

    roles: Sequence[str] = ("user", "assistant")
    owner: str | None = None
    title: str = "imported"


@dataclass(slots=True)
class Summary:
    """What an export holds.

    Attributes:
        conversations: how many have messages to import.
        messages: how many are to be imported.
        left_out: how many messages are not, by reason.
        repaired: messages with characters that cannot be stored, such as NUL, which were removed or replaced.
        people: whose conversations there are, as far as the export says.
    """

    conversations: int = 0
    messages: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    people: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Unit:
    """A conversation in the nameless file: where its messages begin, and how many there are."""

    created_at: datetime
    number: int
    start: int
    count: int
    title: str
    session_key: str


class Converted:
    """An export of another program that was read as a whole.

    Attributes:
        summary: what it holds.
    """

    def __init__(self, summary: Summary, units: list[_Unit], file: BinaryIO, folder: Path) -> None:
        self.summary = summary
        self._units = units
        self._file = file
        self._folder = folder

    @contextmanager
    def export(self, journal: JournalReader) -> Iterator[tuple[Source, int]]:
        """Write it as an export of memagent into a nameless file; also yields its size in bytes.

        Args:
            journal: that it will be added to, which says how its sessions are called.
        """
        names = SessionNames(journal)
        with tempfile.TemporaryFile(dir=self._folder) as out:
            _write(out, Header(kind="memagent", format=1, user=journal.user).model_dump())
            seq = 0
            for unit in sorted(self._units, key=lambda unit: (unit.created_at, unit.number)):
                self._file.seek(unit.start)
                head = [json.loads(self._file.readline()) for _ in range(min(unit.count, _NAMING_IDS))]
                session = names.name(unit.title, unit.session_key, [line["id"] for line in head])
                in_view: list[int] = []
                rest = (json.loads(self._file.readline()) for _ in range(unit.count - len(head)))
                for line in chain(head, rest):
                    seq += 1
                    is_reply = line["role"] == "assistant"
                    _write(
                        out,
                        {**line, "seq": seq, "session": session, "in_view": in_view if is_reply else []},
                    )
                    # A reply saw all that came before; it names what came since the reply before, which names the rest.
                    if is_reply:
                        in_view = []
                    in_view.append(seq)
            out.flush()
            yield Source("The converted export", out), out.tell()


@contextmanager
def convert(
    source: Source,
    format_: Format,
    folder: Path,
    options: Options,
    advance: Callable[[int], None] = lambda size: None,
) -> Iterator[Converted]:
    """Read an export of another program as a whole.

    Args:
        source: the file.
        format_: its format.
        folder: where the nameless files lie, as large as the texts; they are gone however the process ends.
        options: what of it is imported.
        advance: is called with the size of what was read, in bytes.

    Raises:
        InputError: the file is not what such an export is, or holds several people's conversations; the message says where.
    """
    summary = Summary()
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            units = list(_units(source, format_, options, summary, file, advance))
        except InputError as error:
            other = recognize(source)
            if other is None or other.name == format_.name:
                raise
            raise InputError(f"{error} It looks like {other.label}; use --from {other.name}.") from error
        if options.owner is None and len(summary.people) > 1:
            shown = ", ".join(name[:_SHOWN_CHARACTERS] for name in sorted(summary.people)[:5])
            raise InputError(
                f"{source.name} holds what belongs to {len(summary.people)} people: {shown}. Choose one with --owner: "
                "each person's memory is for themselves."
            )
        yield Converted(summary, units, file, folder)


def _units(
    source: Source,
    format_: Format,
    options: Options,
    summary: Summary,
    file: BinaryIO,
    advance: Callable[[int], None],
) -> Iterator[_Unit]:
    """Write the messages of each conversation into the nameless file, and yield where they are."""
    now = datetime.now(UTC)
    keys: set[str] = set()
    place = _Place()
    try:
        for conversation in format_.read(place.of(items(source, advance)), options.title):
            if conversation.owner:
                summary.people.add(conversation.owner)
            if options.owner is not None and conversation.owner != options.owner:
                continue
            if conversation.key in keys:
                summary.left_out[_DUPLICATES] += sum(1 for _ in conversation.messages)
                continue
            keys.add(conversation.key)
            unit = _unit(conversation, len(keys), format_.name, options, summary, file, now)
            summary.left_out.update(conversation.left_out)
            if unit.count:
                summary.conversations += 1
                summary.messages += unit.count
                yield unit
    except ValidationError as error:
        raise InputError(f"{source.name}, item {place.number}: {fault(error)}.") from error
    except InputError as error:
        if str(error).startswith(source.name):
            raise
        raise InputError(f"{source.name}, item {place.number}: {error}.") from error


class _Place:
    """Where in a file one is: the number of the item that was read last, from 1."""

    def __init__(self) -> None:
        self.number = 0

    def of(self, items: Iterator[Any]) -> Iterator[Any]:
        """Yield items and count them."""
        for item in items:
            self.number += 1
            yield item


def _unit(
    conversation: Conversation,
    number: int,
    format_name: str,
    options: Options,
    summary: Summary,
    file: BinaryIO,
    now: datetime,
) -> _Unit:
    """Write the messages of a conversation that are imported, and count the others."""
    start, count = file.tell(), 0
    created_at = first_at = conversation.created_at
    for message in conversation.messages:
        if message.role not in options.roles:
            summary.left_out[OTHER_ROLES] += 1
            continue
        text = _storable(message.text)
        summary.repaired += text != message.text
        if not text.strip():
            summary.left_out[NO_TEXT] += 1
            continue
        created_at = message.created_at or created_at or now
        first_at = first_at or created_at
        line = {
            "kind": "turn",
            "id": _digest(format_name, conversation.key, message),
            "role": message.role,
            "text": text,
            "created_at": timestamp(created_at),
        }
        size = _write(file, line)
        if size > MAX_TEXT_BYTES:
            raise InputError(f"a message has {size:,} bytes; {MAX_TEXT_BYTES:,} at most")
        count += 1
    title = conversation.title or f"{format_name} {(first_at or now):%Y-%m-%d}"
    return _Unit(first_at or now, number, start, count, title, conversation.session_key)


def _storable(text: str) -> str:
    """Return a text without NUL characters and with the replacement character for lone surrogates."""
    joined = (
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not text.isascii() else text
    )
    return joined.replace("\0", "")


def _digest(format_name: str, key: str, message: Message) -> str:
    """Return the id of a turn."""
    parts = json.dumps([format_name, key, message.id])
    return hashlib.sha256(parts.encode(errors="surrogatepass")).hexdigest()[:32]


def _write(file: BinaryIO, fields: dict[str, Any]) -> int:
    """Write a line of JSON and return its size."""
    return file.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")
