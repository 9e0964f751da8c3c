"""Recollections in the messages for a model: the block of notes, and tags in other texts that could forge one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, SystemMessage, ToolMessage
from langchain_core.messages.utils import count_tokens_approximately

from memagent.agent.engine.fences import without_fences
from memagent.agent.engine.prompt import NOTES, SYSTEM_MODEL_CHANNEL, fenced
from memagent.agent.integrations.langchain.thread import SEQS, last_human
from memagent.backends.records import Recollection


def fitting(recollections: Sequence[Recollection], budget: int) -> list[Recollection]:
    """Return the best recollections whose block of notes has at most ``budget`` tokens, by an estimate.

    Args:
        recollections: best first.
        budget: in tokens.
    """
    items = list(recollections)
    while items and count_tokens_approximately([("user", fenced(items))]) > budget:
        items.pop()
    return items


def with_notes(messages: Sequence[BaseMessage], notes: str) -> list[Any]:
    """Return the messages with a block of notes before the text of the user's last message.

    Tags ``<memory>`` and ``</memory>`` in other texts are escaped, so that none can forge a note.

    Args:
        messages: for a model.
        notes: a block that ``fenced`` wrote; may be empty.
    """
    changed = [_escaped(message) for message in messages]
    index = last_human(messages)
    if notes and index >= 0:
        content = changed[index].content
        if isinstance(content, str):
            changed[index] = changed[index].model_copy(update={"content": notes + content})
        else:
            blocks = [{"type": "text", "text": notes}, *content]
            changed[index] = changed[index].model_copy(update={"content": blocks})
    return changed


def with_instructions(system: SystemMessage | None, *, notes: bool) -> SystemMessage:
    """Return the system message with what a model must know about its memory.

    Args:
        system: of the agent; None: it has none.
        notes: whether messages may hold notes; False: memory acts inside the model, and an agent's own message stays as it is.
    """
    if system is None:
        return SystemMessage(content=NOTES if notes else SYSTEM_MODEL_CHANNEL)
    if not notes:
        return system
    if isinstance(system.content, str):
        return system.model_copy(update={"content": f"{system.content}\n\n{NOTES}"})
    return system.model_copy(update={"content": [*system.content, {"type": "text", "text": NOTES}]})


def _escaped(message: BaseMessage) -> BaseMessage:
    """Escape tags in the texts of a message, unless it is of the program or of a tool of memory."""
    ours = (
        isinstance(message, ToolMessage) and isinstance(message.artifact, dict) and SEQS in message.artifact
    )
    if ours or isinstance(message, SystemMessage):
        return message
    if isinstance(message.content, str):
        content: Any = without_fences([message.content])[0]
    else:
        content = [_escaped_block(block) for block in message.content]
    return message if content == message.content else message.model_copy(update={"content": content})


def _escaped_block(block: Any) -> Any:
    if isinstance(block, str):
        return without_fences([block])[0]
    text = block.get("text") if block.get("type") == "text" else None
    return block | {"text": without_fences([text])[0]} if isinstance(text, str) else block
