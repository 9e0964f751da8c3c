"""Claude's ``conversations.json``: a list of conversations with ``chat_messages``; newer ones name each message's parent.

Hidden are reasoning, and what the model sent to tools or got from them. Attachments and files are left out.
Source: exports as described by github.com/Sinity/polylogue and others; Anthropic publishes no schema.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from memagent.agent.journal.chat_exports.conversation import BRANCHES, Conversation, Message, moment
from memagent.backends.errors import InputError

_ROLES = {"human": "user", "user": "user", "assistant": "assistant"}


class _Block(BaseModel):
    type: str = "text"
    text: str | None = None


class _Message(BaseModel):
    uuid: str
    sender: str
    text: str | None = None
    content: list[_Block] | None = None
    created_at: str | None = None
    parent_message_uuid: str | None = None


class _Account(BaseModel):
    uuid: str = ""


class _Conversation(BaseModel):
    uuid: str
    name: str | None = None
    created_at: str | None = None
    account: _Account | None = None
    current_leaf_message_uuid: str | None = None
    chat_messages: list[_Message] = Field()


def conversation(item: Any) -> Conversation:
    """Read one conversation.

    Args:
        item: an item of the export.

    Raises:
        ValidationError, InputError: it is not what an export holds; the message lacks the file's name.
    """
    raw = _Conversation.model_validate(item)
    branch = _branch(raw)
    read = Conversation(
        raw.uuid,
        raw.name or "",
        [
            Message(message.uuid, _role(message), _text(message), moment(message.created_at))
            for message in branch
        ],
        moment(raw.created_at),
        owner=raw.account.uuid if raw.account else "",
    )
    if len(branch) < len(raw.chat_messages):
        read.left_out[BRANCHES] += len(raw.chat_messages) - len(branch)
    return read


def _branch(raw: _Conversation) -> list[_Message]:
    """Return the messages of the current branch: that of the current leaf, or of the last message; without parents, all.

    Raises:
        InputError: a message stands there twice, or is its own ancestor.
    """
    by_id = {message.uuid: message for message in raw.chat_messages}
    if len(by_id) < len(raw.chat_messages):
        raise InputError("chat_messages: two messages have the same uuid")
    if not any(message.parent_message_uuid in by_id for message in raw.chat_messages):
        return raw.chat_messages
    message = by_id.get(raw.current_leaf_message_uuid or "", raw.chat_messages[-1])
    path = [message]
    while (parent := by_id.get(message.parent_message_uuid or "")) is not None:
        if len(path) >= len(by_id):
            raise InputError(f"chat_messages: message {parent.uuid} is its own ancestor")
        path.append(parent)
        message = parent
    return path[::-1]


def _role(message: _Message) -> str:
    """Return who said a message.

    Raises:
        InputError: the sender is unknown.
    """
    if message.sender not in _ROLES:
        raise InputError(f"sender: expected human or assistant, not {message.sender[:40]!r}")
    return _ROLES[message.sender]


def _text(message: _Message) -> str:
    """Return the text of a message's blocks; ``text`` also has stand-ins for blocks that are no text."""
    texts = [block.text or "" for block in message.content or () if block.type == "text"]
    return "\n\n".join(text for text in texts if text.strip()) if texts else message.text or ""
