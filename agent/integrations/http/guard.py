"""What every request passes before it is answered: where it comes from, how much there is of it, and one line in the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memagent.agent.integrations.http.errors import ApiError, api_error
from memagent.agent.integrations.http.identity import headers_of, is_loopback
from memagent.agent.integrations.http.limits import Limits

_LOG = logging.getLogger("memagent.server")


class Guard:
    """An ASGI application that passes on requests which may be answered, and answers the others itself.

    Args:
        app: answers the requests.
        limits: of the server.
        loopback: the server listens on the loopback interface only, so that requests by other names are refused: a web page
            can let its own name stand for 127.0.0.1 (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, limits: Limits, *, loopback: bool) -> None:
        self._app = app
        self._limits = limits
        self._loopback = loopback
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        began, status = time.monotonic(), 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._requests += 1
        try:
            self._check(scope)
            await self._app(scope, self._limited(receive), send_noted)
        except Exception as error:  # noqa: BLE001 - no error may reach the HTTP server, which would log its message
            if not status:  # else it has been answered, and logged if it is unexpected
                await api_error(error).response(scope, receive, send_noted)
        finally:
            self._requests -= 1
            route = _route(scope)
            _LOG.info("%s %s %d %.3f s", scope["method"], route, status, time.monotonic() - began)

    def _check(self, scope: Scope) -> None:
        """Refuse requests of other people's web pages, and those that are too many or too large."""
        headers = headers_of(scope)
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or "" if _is_plain(host) else ""
        if self._loopback and not is_loopback(name):
            raise ApiError(
                421,
                "This server is reached as 127.0.0.1 or localhost only. `memagent serve --host` with a key opens it to others.",
                code="host_not_allowed",
            )
        if _is_foreign(scope["method"], headers, host):
            raise ApiError(
                403, "Web pages of other sites may not use this server.", code="origin_not_allowed"
            )
        if self._requests > self._limits.requests:
            raise ApiError(503, "The server is busy; try again later.", "server_error", "overloaded")
        length = headers.get("content-length", "")
        if length.isascii() and length.isdecimal() and int(length) > self._limits.body_bytes:
            raise self._too_large()

    def _limited(self, receive: Receive) -> Receive:
        """Return what receives a request, with limits for the size of its body and for the time that it takes."""
        deadline = time.monotonic() + self._limits.body_seconds
        num_bytes, is_whole = 0, False

        async def receive_limited() -> Message:
            nonlocal num_bytes, is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                    message = await receive()
            except TimeoutError as error:
                detail = f"The body of the request did not come within {self._limits.body_seconds:g} seconds."
                raise HTTPException(408, detail, {"Connection": "close"}) from error
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._limits.body_bytes:
                raise self._too_large()
            is_whole = not message.get("more_body", False)
            return message

        return receive_limited

    def _too_large(self) -> HTTPException:
        limit = self._limits.body_bytes
        return HTTPException(413, f"The body of the request is too large: {limit:,} bytes at most.")


def _route(scope: Scope) -> str:
    """Return the pattern of the address, for the log: the address itself may hold texts."""
    path = scope["path"] if scope["path"] == "/mcp" else "(no route)"
    return str(getattr(scope.get("route"), "path", path))


def _is_foreign(method: str, headers: Mapping[str, str], host: str) -> bool:
    """Return whether a browser says that a page of another site sends a request.

    A browser names the page's origin with every request that changes something. Following a link to this server is no such
    request.
    """
    origin = headers.get("origin")
    if origin is not None and (not _is_plain(origin) or urlsplit(origin).netloc.lower() != host.lower()):
        return True
    is_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not is_link


def _is_plain(value: str) -> bool:
    """Return whether a header has no characters that ``urlsplit`` stumbles over."""
    try:
        return value.isascii() and urlsplit(value if "//" in value else f"//{value}").port != 0
    except ValueError:
        return False
