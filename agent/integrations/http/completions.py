"""The bodies of replies: whole, or as chunks of a stream of server-sent events."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from memagent.agent.engine.events import Usage

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply, as OpenAI's API names it.

    Attributes:
        model: the model id of the request.
        id: of the reply.
        created: in seconds since 1970.
    """

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, finish_reason: str, usage: Usage | None) -> dict[str, Any]:
        """Return the body of a reply that is not streamed.

        Args:
            text: the reply.
            finish_reason: ``stop``, or ``length`` if it was cut.
            usage: sizes in tokens; None: the reply was cut before they were known.
        """
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return self._body("chat.completion", [choice], usage=usage_body(usage))

    def chunk(
        self, delta: dict[str, str], finish_reason: str | None = None, *, with_usage: bool = False
    ) -> bytes:
        """Return a chunk of a stream.

        Args:
            delta: what is added to the message.
            finish_reason: of the last chunk.
            with_usage: whether the stream ends with a chunk of sizes; the others say that they have none.
        """
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        more = {"usage": None} if with_usage else {}
        return event(self._body("chat.completion.chunk", [choice], **more))

    def usage_chunk(self, usage: Usage | None) -> bytes:
        """Return the chunk of a stream that has the sizes in tokens, and nothing else.

        Args:
            usage: the sizes; None: the reply was cut before they were known.
        """
        return event(self._body("chat.completion.chunk", [], usage=usage_body(usage)))

    def _body(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }


def event(body: dict[str, Any]) -> bytes:
    """Return a server-sent event.

    Args:
        body: its content.
    """
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode("utf-8", "replace")


def usage_body(usage: Usage | None) -> dict[str, int]:
    """Return sizes in tokens as OpenAI's API names them.

    Args:
        usage: the sizes; None: they are not known, and all are 0.
    """
    prompt, reply = (usage.prompt_tokens, usage.reply_tokens) if usage else (0, 0)
    return {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}
