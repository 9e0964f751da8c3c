"""What all formats of other programs are read into: conversations with messages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import ValidationError

from memagent.backends.errors import InputError

BRANCHES = "on other branches"
HIDDEN = "hidden by the program"
NO_TEXT = "without text"
OTHER_ROLES = "of other roles"
"""Why a message is left out: the words of the summary."""

_MILLISECONDS_FROM = 1e11
"""Numbers from here on are milliseconds since 1970: as seconds, they would be after the year 5000."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        id: unique within the conversation, and the same in every export of it.
        role: ``user``, ``assistant``, ``system`` or ``tool``.
        text: may be blank, if the message holds something else.
        created_at: None: the export does not say.
    """

    id: str
    role: str
    text: str
    created_at: datetime | None = None


@dataclass(slots=True)
class Conversation:
    """A conversation of an export.

    Attributes:
        key: identifies it in every export of it.
        title: what the session is called, if nothing else is called so.
        messages: in order; may be read once.
        created_at: when it began; None: the export does not say.
        owner: whose it is, where an export has several people's; empty: it does not say.
        session_key: conversations with the same one share a session; empty: it has a session of its own.
        left_out: how many messages are left out, by reason; complete once the messages are read.
    """

    key: str
    title: str
    messages: Iterable[Message]
    created_at: datetime | None = None
    owner: str = ""
    session_key: str = ""
    left_out: Counter[str] = field(default_factory=Counter)


def moment(value: float | str | None) -> datetime | None:
    """Read a time: seconds or milliseconds since 1970, or ISO 8601, where UTC is assumed if it has no zone.

    Args:
        value: None or empty: unknown.

    Raises:
        InputError: it is no time.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            parsed = datetime.fromisoformat(value)
            return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
        return datetime.fromtimestamp(value / 1000 if abs(value) >= _MILLISECONDS_FROM else value, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(
            f"{str(value)[:40]!r} is no time; expected seconds since 1970 or ISO 8601"
        ) from error


def content_text(content: object) -> str:
    """Return the text of a message's content: a string, or a list of texts and of blocks that may have a ``text``.

    Args:
        content: as it stands in the export.

    Raises:
        InputError: it is neither.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InputError(f"content: expected a text or a list, not {type(content).__name__}")
    texts: list[str] = []
    for block in content:
        text = block.get("text") if isinstance(block, dict) else block
        if isinstance(text, str):
            texts.append(text)
    return "\n\n".join(text for text in texts if text.strip())


def fault(error: ValidationError) -> InputError:
    """Return the first thing that is wrong with a value, as an error whose message lacks the file's name."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part)[:40] for part in first["loc"])
    message = re.sub(r"valid dictionary or instance of \w+", "valid object", first["msg"])
    return InputError(f"{where + ': ' if where else ''}{message}")
