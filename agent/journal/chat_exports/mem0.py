"""mem0's memories: what ``get_all`` returns, a list or an object with ``results``.

Each memory becomes a turn of the user's. Memories of one run share a session.
Source: docs.mem0.ai/cookbooks/essentials/exporting-memories.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel

from memagent.agent.journal.chat_exports.conversation import Conversation, Message, moment


class _Memory(BaseModel):
    memory: str
    id: str | None = None
    created_at: str | None = None
    user_id: str | None = None
    run_id: str | None = None
    role: str | None = None


def conversation(item: Any) -> Conversation:
    """Read one memory, as a conversation of one message.

    Args:
        item: an item of the export.

    Raises:
        ValidationError, InputError: it is not what an export holds; the message lacks the file's name.
    """
    raw = _Memory.model_validate(item)
    key = raw.id or hashlib.sha256(raw.memory.encode(errors="replace")).hexdigest()
    created_at = moment(raw.created_at)
    role = "assistant" if raw.role == "assistant" else "user"
    session = f"mem0 {raw.run_id}" if raw.run_id else "mem0"
    return Conversation(
        key,
        session,
        [Message(key, role, raw.memory, created_at)],
        created_at,
        owner=raw.user_id or "",
        session_key=session,
    )
