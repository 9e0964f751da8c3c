"""The response of a chat request: it follows the events of a reply, and gives the reply up when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, cast

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from memagent.agent.engine.conversation import storable_reply
from memagent.agent.engine.events import Event, Recalled, Token, TurnBegan, TurnEnded, Usage
from memagent.agent.integrations.http.completions import DONE, Completion, event
from memagent.agent.integrations.http.errors import ApiError, api_error

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # or nginx holds chunks back
]


@dataclass(frozen=True, slots=True)
class Form:
    """How a client wants a reply.

    Attributes:
        stream: in chunks.
        with_usage: with a last chunk that has the sizes in tokens.
        max_tokens: the longest reply.
        seconds: a reply that has not begun by then is given up, and one in progress ends there.
        session: name of the session, for a header; empty: there is none.
    """

    stream: bool
    with_usage: bool
    max_tokens: Callable[[Usage], int]
    seconds: float
    session: str


class ReplyResponse(Response):
    """Sends a reply, whole or in chunks. If the client leaves, the reply ends after its next token and is stored so far.

    Errors before the first event are raised, so that they get a status of their own. Later ones are an event of the stream.

    Args:
        events: of the reply; nothing has been read of them.
        completion: names the reply.
        form: how the client wants it.
    """

    def __init__(self, events: AsyncIterator[Event], completion: Completion, form: Form) -> None:
        super().__init__()
        self._events = cast("AsyncGenerator[Event, None]", events)
        self._completion = completion
        self._form = form
        self._text = ""
        self._num_tokens = 0
        self._usage: Usage | None = None
        self._finish_reason = "stop"
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply until it ends or the client leaves."""
        reply = asyncio.ensure_future(self._answer(scope, receive, send))
        leaving = asyncio.ensure_future(_until_client_leaves(receive))
        server_ends = False
        try:
            await asyncio.wait({reply, leaving}, return_when=asyncio.FIRST_COMPLETED)
        except (
            asyncio.CancelledError
        ):  # only the HTTP server cancels a request: it ends, and has waited long enough
            server_ends = True
        finally:
            for task in (reply, leaving):
                if not task.done():
                    task.cancel()
            await asyncio.wait({reply, leaving})
        if not reply.cancelled():
            reply.result()
        elif server_ends:
            await self._cut(scope, receive, send)

    async def _cut(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what is missing of a reply that the end of the server cuts."""
        if self._has_begun:
            last = self._completion.chunk({}, "length", with_usage=self._form.with_usage)
            await send({"type": "http.response.body", "body": last + DONE, "more_body": False})
            return
        text = storable_reply(self._text)
        if text:
            response = JSONResponse(self._completion.whole(text, "length", self._usage))
        else:
            message = "The server ends before the reply has begun; try again later."
            response = ApiError(503, message, "server_error", "server_ends").response
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        form = self._form
        session = (
            [(b"x-session-id", form.session.encode())] if form.session.isascii() and form.session else []
        )
        if not form.stream:
            await self._follow(None)
            text = storable_reply(self._text)
            body = self._completion.whole(text, self._finish_reason, self._usage)
            response = JSONResponse(body)
            response.raw_headers += session
            await response(scope, receive, send)
            return
        headers = [*_STREAM_HEADERS, *session]

        async def send_chunk(chunk: bytes, *, is_last: bool = False) -> None:
            if not self._has_begun:
                self._has_begun = True
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": chunk, "more_body": not is_last})

        try:
            await self._follow(send_chunk)
            last = self._completion.chunk({}, self._finish_reason, with_usage=form.with_usage)
            if form.with_usage:
                last += self._completion.usage_chunk(self._usage)
            await send_chunk(last + DONE, is_last=True)
        except Exception as error:
            if not self._has_begun:
                raise
            await send_chunk(event(api_error(error).body), is_last=True)

    async def _follow(self, send_chunk: Callable[..., Any] | None) -> None:
        """Read the events, and hand the tokens on, until the reply ends or its time is over."""
        has_begun = False
        try:
            async with aclosing(self._events), asyncio.timeout(self._form.seconds):
                async for item in self._events:
                    if not has_begun and isinstance(item, (TurnBegan, Recalled, Token)):
                        has_begun = True
                        await self._send(send_chunk, {"role": "assistant", "content": ""})
                    if isinstance(item, Token):
                        self._text += item.text
                        self._num_tokens += 1
                        await self._send(send_chunk, {"content": item.text})
                    elif isinstance(item, TurnEnded):
                        self._usage = item.usage
                        # Either count may fall short: one token may be part of a letter, and texts are counted anew.
                        num_tokens = max(self._num_tokens, item.usage.reply_tokens)
                        is_cut = num_tokens >= self._form.max_tokens(item.usage)
                        self._finish_reason = "length" if is_cut else "stop"
        except TimeoutError as error:
            if not has_begun:
                raise ApiError(
                    503,
                    f"The reply did not begin within {self._form.seconds:g} seconds. Nothing was stored; try again later.",
                    "server_error",
                    "timeout",
                    headers={"Retry-After": "5"},
                ) from error
            self._finish_reason = "length"

    async def _send(self, send_chunk: Callable[..., Any] | None, delta: dict[str, str]) -> None:
        if send_chunk is not None:
            await send_chunk(self._completion.chunk(delta, with_usage=self._form.with_usage))


async def _until_client_leaves(receive: Receive) -> None:
    """Wait until the client has closed the connection."""
    with suppress(OSError):
        while (await receive())["type"] != "http.disconnect":
            pass
