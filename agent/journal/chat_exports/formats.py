"""The formats by name, and what tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from memagent.agent.journal.chat_exports import chatgpt, claude, mem0, messages
from memagent.agent.journal.chat_exports.conversation import Conversation
from memagent.agent.journal.chat_exports.documents import items
from memagent.agent.journal.proof import Source
from memagent.backends.errors import InputError


@dataclass(frozen=True, slots=True)
class Format:
    """A format of another program.

    Attributes:
        name: as after ``--from``.
        label: what such a file is called in messages.
        read: yields the conversations of a file's items; the second argument is the title of a file without titles.
    """

    name: str
    label: str
    read: Callable[[Iterator[Any], str], Iterator[Conversation]]


def _each(read: Callable[[Any], Conversation]) -> Callable[[Iterator[Any], str], Iterator[Conversation]]:
    """Return a function that reads each item as a conversation with a title of its own."""
    return lambda items, _: map(read, items)


FORMATS = {
    format_.name: format_
    for format_ in (
        Format("chatgpt", "an export of ChatGPT", _each(chatgpt.conversation)),
        Format("claude", "an export of Claude", _each(claude.conversation)),
        Format(
            "openai-messages",
            "a list of messages as OpenAI's API takes them",
            partial(messages.conversations, read=messages.openai_message),
        ),
        Format(
            "langchain",
            "a list of LangChain's messages",
            partial(messages.conversations, read=messages.langchain_message),
        ),
        Format("mem0", "a list of mem0's memories", _each(mem0.conversation)),
    )
}
"""The formats, by name."""


def recognize(source: Source) -> Format | None:
    """Return the format that a file's first item has; None: it is none of these.

    Args:
        source: the file; its position changes.
    """
    try:
        item = next(items(source), None)
    except InputError:
        return None
    while isinstance(item, list):
        item = item[0] if item else None
    if not isinstance(item, dict):
        return None
    nested = item.get("messages")
    if isinstance(nested, list) and nested and isinstance(nested[0], dict):
        item = nested[0]
    for name, keys in (
        ("chatgpt", {"mapping"}),
        ("claude", {"chat_messages"}),
        ("mem0", {"memory"}),
        ("langchain", {"type", "data"}),
        ("langchain", {"lc", "kwargs"}),
        ("openai-messages", {"role", "content"}),
        ("langchain", {"type", "content"}),
    ):
        if keys.issubset(item):
            return FORMATS[name]
    return None
