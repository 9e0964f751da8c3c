"""``/v1/chat/completions`` and ``/v1/models``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from memagent.agent.engine.events import Event
from memagent.agent.engine.given_history import keyed_digest
from memagent.agent.integrations.http.completions import Completion
from memagent.agent.integrations.http.dependencies import KnownClient, KnownUser, Parts, ServerParts, User
from memagent.agent.integrations.http.errors import ApiError
from memagent.agent.integrations.http.replies import NO_MEMORY, Prompt, Wishes
from memagent.agent.integrations.http.reply_response import Form, ReplyResponse
from memagent.agent.integrations.http.schemas import ChatRequest
from memagent.agent.journal.records import check_name
from memagent.agent.models.chat import Message

router = APIRouter()
_SESSION_HEADERS = ("x-session-id", "x-openwebui-chat-id")
_SESSION_FIELDS = ("session_id", "session")
_SESSION_DIGITS = 16


@router.post("/v1/chat/completions")
async def chat_completions(
    request: Request, body: ChatRequest, user: KnownUser, parts: ServerParts
) -> Response:
    """Answer the last message of a conversation, with the memory that ``model`` names."""
    _check_model(parts, body.model)
    prompt = _prompt(body)
    session = "" if body.model == NO_MEMORY else _session(request, body, user)
    max_tokens = body.max_completion_tokens or body.max_tokens
    wishes = Wishes(max_tokens, body.temperature, body.seed, body.stops)
    form = Form(
        stream=bool(body.stream),
        with_usage=body.with_usage,
        max_tokens=lambda usage: parts.replies.max_tokens(usage.window, wishes),
        seconds=parts.limits.reply_seconds,
        session=session,
    )
    events = parts.replies.answer(user.name, user.secret, session, body.model, prompt, wishes)
    return ReplyResponse(_counted(parts, user, events), Completion(body.model), form)


@router.get("/v1/models")
async def models(client: KnownClient, parts: ServerParts) -> dict[str, Any]:
    """List the model ids: the memories, and ``none``, which does not remember."""
    return {"object": "list", "data": [_model(id_) for id_ in parts.replies.model_ids]}


@router.get("/v1/models/{model_id}")
async def model(model_id: str, client: KnownClient, parts: ServerParts) -> dict[str, Any]:
    """Return one model id."""
    _check_model(parts, model_id)
    return _model(model_id)


def _model(id_: str) -> dict[str, Any]:
    return {"id": id_, "object": "model", "created": 0, "owned_by": "memagent"}


def _check_model(parts: Parts, id_: str) -> None:
    """Refuse a model id that does not exist."""
    if id_ not in parts.replies.model_ids:
        raise ApiError(
            404,
            f"There is no model {id_[:80]!r}. The models are names of memories: {', '.join(parts.replies.model_ids)}.",
            code="model_not_found",
            param="model",
        )


def _prompt(body: ChatRequest) -> Prompt:
    """Split the messages of a request into system prompt, history and the new message."""
    spoken = [message for message in body.messages if message.role in ("user", "assistant")]
    if body.messages[-1].role != "user":
        raise ApiError(400, "The last message must be by the user: it is what is answered.", param="messages")
    system = "\n\n".join(message.text for message in body.messages if message.role in ("system", "developer"))
    history = tuple(Message(message.role, message.text) for message in spoken[:-1] if message.text.strip())
    return Prompt(history, spoken[-1].text, system.strip())


def _session(request: Request, body: ChatRequest, user: User) -> str:
    """Return the session that a request names, or one that the first message of the conversation stands for."""
    metadata = body.metadata or {}
    names = [request.headers.get(name) for name in _SESSION_HEADERS]
    names += [metadata.get(name) for name in _SESSION_FIELDS]
    name = next((name for name in names if isinstance(name, str) and name.strip()), None)
    if name is not None:
        check_name("session name", name)
        return name
    first = next(message.text for message in body.messages if message.role == "user")
    return f"chat-{keyed_digest(user.secret, first.strip())[:_SESSION_DIGITS]}"


async def _counted(parts: Parts, user: User, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """Yield the events of a reply that counts as in progress until they end."""
    generator = cast("Any", events)
    with parts.counter.counted(user.name):
        async with aclosing(generator):
            async for event in events:
                yield event
