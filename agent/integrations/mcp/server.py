"""The MCP server: over standard input and output for one user, or as an ASGI application for many."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from memagent.agent.memory.pool import MemoryPool
from memagent.backends.errors import MissingExtraError

try:
    import uvicorn
    from mcp.server import MCPServer
    from mcp.server.auth.middleware.auth_context import AuthContextMiddleware, get_access_token
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.auth.provider import AccessToken
    from mcp.server.transport_security import TransportSecuritySettings
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send
except ModuleNotFoundError as error:
    raise MissingExtraError("The MCP server", error.name or "mcp", "mcp") from error

from memagent.agent.integrations.access.access import MemoryAccess
from memagent.agent.integrations.mcp.tools import INSTRUCTIONS, add_tools

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
UserOf = Callable[[MutableMapping[str, Any]], str | None]
"""Returns the user whose memory a request may use, from the request's ASGI scope; None: it may use none."""


def mcp_server(access: MemoryAccess, user_of: Callable[[], str]) -> MCPServer[Any]:
    """Return a server with the six tools.

    Args:
        access: the memories.
        user_of: returns whose memory the running call may use.
    """
    from memagent import __version__

    with _no_logging_set_up():
        server: MCPServer[Any] = MCPServer(
            "memagent",
            title="memagent: long-term memory",
            instructions=INSTRUCTIONS,
            version=__version__,
            log_level="WARNING",
            subscriptions=False,
        )
    add_tools(server, access, user_of)
    return server


async def serve_stdio(pool: MemoryPool, user: str) -> None:
    """Serve one user over standard input and output, until the input ends.

    Standard output carries the protocol only: meanwhile, whatever else this process prints there goes to standard error.

    Args:
        pool: the memories; the caller closes it.
        user: whose memory it is.
    """
    access = MemoryAccess(pool)
    try:
        await mcp_server(access, lambda: user).run_stdio_async()
    finally:
        await access.close()


async def serve_http(pool: MemoryPool, user: str, listener: socket.socket) -> None:
    """Serve one user over streamable HTTP at the path ``/mcp``, until the process is interrupted or terminated.

    Args:
        pool: the memories; the caller closes it.
        user: whose memory it is.
        listener: a listening socket of this machine's loopback interface: there are no keys.
    """
    mcp = mcp_app(pool, lambda _: user)
    application = Starlette(routes=[Route("/mcp", mcp)], lifespan=lambda _: mcp.running())
    config = uvicorn.Config(application, log_config=None, access_log=False, server_header=False)
    await uvicorn.Server(config).serve(sockets=[listener])


class McpApp:
    """The MCP server as an ASGI application for a route of its own, such as ``/mcp``; any path below it is the same.

        mcp = mcp_app(pool, user_of)
        async with mcp.running():
            ...  # serve Starlette(routes=[Route("/mcp", mcp)])

    Make it with ``mcp_app``. Each request stands alone, so that a client goes on after the server was started anew.
    """

    def __init__(self, pool: MemoryPool, user_of: UserOf, security: TransportSecuritySettings | None) -> None:
        self._access = MemoryAccess(pool)
        self._user_of = user_of
        server = mcp_server(self._access, _user_of_request)
        server.streamable_http_app(json_response=True, stateless_http=True, transport_security=security)
        self._manager = server.session_manager
        self._application = AuthContextMiddleware(self._manager.handle_request)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer requests until the context ends; then let calls that have begun run to their end. It can be entered once."""
        try:
            async with self._manager.run():
                yield
        finally:
            await self._access.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, with the memory of the user whom ``user_of`` returns, or with status 401."""
        user = self._user_of(scope)
        if user is None:
            refusal = JSONResponse(
                {
                    "error": "invalid_token",
                    "error_description": "A valid key is needed: Authorization: Bearer KEY.",
                },
                401,
                {"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
            await refusal(scope, receive, send)
            return
        # What the SDK hands on from a request to its tools is the access token.
        token = AccessToken(token="", client_id=user, scopes=[], subject=user)
        # RFC 9110, section 5.5: white space around a value is no part of it. Not every HTTP server takes it away.
        headers = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        await self._application(
            {**scope, "headers": headers, "user": AuthenticatedUser(token)}, receive, send
        )


def mcp_app(pool: MemoryPool, user_of: UserOf, *, check_hosts: bool = True) -> McpApp:
    """Return the MCP server as an ASGI application, for a program that mounts it.

    Args:
        pool: the memories; the caller closes it, after ``McpApp.running`` has ended.
        user_of: returns whose memory a request may use.
        check_hosts: refuse requests whose Host or Origin is not this machine, so that no web page can reach the server through
            a name of its own. False: the program that mounts it does that.
    """
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=check_hosts,
        allowed_hosts=[f"{host}{port}" for host in _LOOPBACK for port in ("", ":*")],
        allowed_origins=[f"http://{host}{port}" for host in _LOOPBACK for port in ("", ":*")],
    )
    return McpApp(pool, user_of, security)


def _user_of_request() -> str:
    """Return whose memory the request that is being answered may use."""
    token = get_access_token()
    if token is None or not token.subject:
        raise RuntimeError("a request without a user reached a tool")
    return token.subject


@contextmanager
def _no_logging_set_up() -> Iterator[None]:
    """Leave the program's logging as it is: the SDK sets up the root logger unless that has a handler."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
