"""ChatGPT's ``conversations.json``: a list of conversations, each a tree of messages with a current branch.

A message was edited or a reply generated anew where a node has several children; ``current_node`` is the end of the branch that the
program shows. Hidden are custom instructions, reasoning, and what the model sent to tools or got from them.
Source: exports as described by github.com/mitkury/chatgpt-export-parser and others; OpenAI publishes no schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Field

from memagent.agent.journal.chat_exports.conversation import (
    BRANCHES,
    HIDDEN,
    Conversation,
    Message,
    content_text,
    moment,
)
from memagent.backends.errors import InputError

_SHOWN = ("text", "multimodal_text")
# Citations and the like, between characters of the private use area that the program replaces by links.
_MARKUP = re.compile("\ue200[^\ue200\ue201]*\ue201")


class _Author(BaseModel):
    role: str


class _Content(BaseModel):
    content_type: str = "text"
    parts: list[Any] | None = None


class _Message(BaseModel):
    author: _Author
    create_time: float | None = None
    content: _Content | None = None
    recipient: str | None = "all"
    metadata: dict[str, Any] | None = None


class _Node(BaseModel):
    message: _Message | None = None
    parent: str | None = None


class _Conversation(BaseModel):
    id: str | None = None
    conversation_id: str | None = None
    title: str | None = None
    create_time: float | None = None
    current_node: str | None = None
    mapping: dict[str, _Node] = Field()


def conversation(item: Any) -> Conversation:
    """Read one conversation.

    Args:
        item: an item of the export.

    Raises:
        ValidationError, InputError: it is not what an export holds; the message lacks the file's name.
    """
    raw = _Conversation.model_validate(item)
    branch = _branch(raw)
    key = raw.conversation_id or raw.id or f"{raw.title} {raw.create_time}"
    read = Conversation(key, raw.title or "", (), moment(raw.create_time))
    read.messages = list(_shown(raw, branch, read))
    on_branch = set(branch)
    others = sum(_is_shown(node.message) for name, node in raw.mapping.items() if name not in on_branch)
    if others:
        read.left_out[BRANCHES] += others
    return read


def _branch(raw: _Conversation) -> list[str]:
    """Return the names of the current branch's nodes, from its beginning; without one, the branch of the latest message.

    Raises:
        InputError: a node is missing, or is its own ancestor.
    """
    name = raw.current_node
    if name is None or name not in raw.mapping:
        name = max(raw.mapping, key=lambda node: _time(raw.mapping[node]), default=None)
    path: list[str] = []
    visited: set[str] = set()
    while name is not None:
        if name in visited:
            raise InputError(f"mapping: node {name[:40]} is its own ancestor")
        if name not in raw.mapping:
            raise InputError(f"mapping: node {name[:40]} is missing, the parent of {path[-1][:40]}")
        visited.add(name)
        path.append(name)
        name = raw.mapping[name].parent or None
    return path[::-1]


def _time(node: _Node) -> float:
    return (node.message.create_time or 0.0) if node.message is not None else 0.0


def _is_shown(message: _Message | None) -> bool:
    """Return whether the program shows a message as a part of the conversation."""
    if message is None or message.content is None:
        return False
    hidden = (message.metadata or {}).get("is_visually_hidden_from_conversation")
    is_message = message.author.role in ("user", "assistant") and message.recipient in (None, "all")
    return is_message and not hidden and message.content.content_type in _SHOWN


def _shown(raw: _Conversation, branch: list[str], read: Conversation) -> Iterator[Message]:
    """Yield the messages of a branch that the program shows, and count the others."""
    for name in branch:
        message = raw.mapping[name].message
        if message is None or message.content is None:
            continue
        if _is_shown(message):
            text = _MARKUP.sub("", content_text(message.content.parts))
            yield Message(name, message.author.role, text, moment(message.create_time))
        elif message.author.role != "system":
            read.left_out[HIDDEN] += 1
