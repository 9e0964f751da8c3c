"""Lists of messages without titles, and mostly without ids and times: those of OpenAI's API, and those of LangChain.

A file is one conversation, given as a list or as lines of messages; or several, each a list of its own or an object with a list
``messages``, as in files for fine-tuning. A message without an id is identified by its place and its text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from pydantic import BaseModel

from memagent.agent.journal.chat_exports.conversation import Conversation, Message, content_text, moment
from memagent.backends.errors import InputError

Read = Callable[[Any, int], Message]
"""Reads a message from an item and its place in the conversation, from 0."""
_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
}


class _Message(BaseModel):
    role: str
    content: Any = None
    id: str | None = None
    created_at: float | str | None = None
    timestamp: float | str | None = None


class _Data(BaseModel):
    content: Any = None
    id: str | None = None
    role: str | None = None


class _LangChain(BaseModel):
    type: str
    data: _Data


class _Serialized(BaseModel):
    id: list[str]
    kwargs: _Data


def conversations(items: Iterator[Any], title: str, read: Read) -> Iterator[Conversation]:
    """Read the conversations of a file.

    Args:
        items: of the file.
        title: of the file; the conversations' too, with a number from the second on.
        read: reads a message.

    Raises:
        ValidationError, InputError: an item is not what such a file holds; the message lacks the file's name.
    """
    first = next(items, None)
    if first is None:
        return
    if _messages_of(first) is None:
        yield Conversation(
            title, title, (read(item, place) for place, item in enumerate(chain([first], items)))
        )
        return
    for number, item in enumerate(chain([first], items), 1):
        messages = _messages_of(item)
        if messages is None:
            raise InputError(
                "expected a conversation like the first: a list of messages, or an object with one"
            )
        name = title if number == 1 else f"{title} {number}"
        yield Conversation(name, name, (read(message, place) for place, message in enumerate(messages)))


def openai_message(item: Any, place: int) -> Message:
    """Read a message of OpenAI's API."""
    raw = _Message.model_validate(item)
    created_at = moment(raw.created_at if raw.created_at is not None else raw.timestamp)
    return _message(raw.role, content_text(raw.content), raw.id, created_at, place)


def langchain_message(item: Any, place: int) -> Message:
    """Read a message of LangChain, as ``messages_to_dict`` or ``dumpd`` writes it."""
    if isinstance(item, dict) and "kwargs" in item:
        serialized = _Serialized.model_validate(item)
        kind = (serialized.id[-1:] or [""])[0]
        data = serialized.kwargs
    elif isinstance(item, dict) and "data" not in item and "content" in item:
        kind, data = str(item.get("type")), _Data.model_validate(item)
    else:
        message = _LangChain.model_validate(item)
        kind = message.type
        data = message.data
    # A class or a type: HumanMessage, AIMessageChunk, human.
    role = kind.removesuffix("Chunk").removesuffix("Message").lower()
    if role == "chat":
        role = data.role or ""
    return _message(role, content_text(data.content), data.id, None, place)


def _messages_of(item: Any) -> list[Any] | None:
    """Return the messages of a conversation; None: the item is no conversation."""
    messages = item.get("messages") if isinstance(item, dict) else item
    return messages if isinstance(messages, list) else None


def _message(role: str, text: str, id_: str | None, created_at: Any, place: int) -> Message:
    """Return a message with a role of ours and an id.

    Raises:
        InputError: the role is unknown.
    """
    if role not in _ROLES:
        raise InputError(f"role: expected one of {', '.join(_ROLES)}, not {role[:40]!r}")
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
    return Message(f"{place} {role} {id_ or digest}", _ROLES[role], text, created_at)
