"""The requests that the server takes. Fields that it does not know are ignored, as clients send many."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

_MAX_STOPS = 16
_MAX_INTEGER = 2**63 - 1
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


class ChatMessage(BaseModel):
    """One message of a conversation.

    Attributes:
        role: who says it.
        content: a text, or parts of it.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Any] | None = None

    @property
    def text(self) -> str:
        """The text of the message."""
        if not isinstance(self.content, list):
            return self.content or ""
        return "\n\n".join(str(part.get(_part_field(part)) or "") for part in self.content)

    @model_validator(mode="after")
    def _text_only(self) -> ChatMessage:
        if self.role in ("tool", "function") or self.tool_calls:
            raise ValueError("messages of tools are not supported: the models of memagent call none.")
        for part in self.content if isinstance(self.content, list) else ():
            if str(part.get("type", "text")) not in _TEXT_PARTS:
                raise ValueError("only content of type text is read, no images, sound or files.")
            has_text = isinstance(part.get(_part_field(part), ""), str)
            if not has_text:
                raise ValueError("a part of type text has a text.")
        return self


class StreamOptions(BaseModel):
    """What a stream holds besides the reply.

    Attributes:
        include_usage: a last chunk with the sizes in tokens.
    """

    include_usage: bool | None = False


class ChatRequest(BaseModel):
    """The body of ``POST /v1/chat/completions``, as far as the server uses it.

    Attributes:
        model: one of ``GET /v1/models``: the name of a memory, or ``none``.
        messages: the whole conversation, the new message last.
        stream: whether the reply comes in chunks.
        metadata: ``session_id`` in it names the session.
    """

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    metadata: dict[str, Any] | None = None
    n: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    @field_validator("tools", "functions")
    @classmethod
    def _no_tools(cls, value: list[Any] | None, info: ValidationInfo) -> list[Any] | None:
        if value:
            raise ValueError("tools are not supported: the models of memagent call none. Send none.")
        return value

    @field_validator("n")
    @classmethod
    def _one_reply(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise ValueError("one reply for each request; send several requests for several replies.")
        return value

    @field_validator("response_format")
    @classmethod
    def _plain_text(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value and value.get("type") != "text":
            raise ValueError("only the type text is supported: replies are not bound to JSON.")
        return value

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and len(value) > _MAX_STOPS:
            raise ValueError(f"at most {_MAX_STOPS} texts.")
        return value

    @field_validator("seed")
    @classmethod
    def _small_seed(cls, value: int | None) -> int | None:
        return None if value is None else value & _MAX_INTEGER

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the reply."""
        values = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(value for value in values if value)

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the sizes in tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class NewMemory(BaseModel):
    """The body of ``POST /v1/memories``.

    Attributes:
        text: what is remembered.
        session: the session that it is filed under.
    """

    text: str
    session: str = "notes"


class MemorySearch(BaseModel):
    """The body of ``POST /v1/memories/search``.

    Attributes:
        query: a question or a text.
        limit: most memories.
    """

    query: str
    limit: Annotated[int, Field(ge=1, le=50)] = 5


def _part_field(part: dict[str, Any]) -> str:
    return "refusal" if part.get("type") == "refusal" else "text"
