"""The server as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from memagent.agent.home import Home
from memagent.agent.memory.pool import MemoryPool
from memagent.backends.errors import MemagentError, MissingExtraError

try:
    import uvicorn  # noqa: F401 - the same extra
    from fastapi import FastAPI
    from fastapi.telemetry import TelemetryConfig
    from starlette.routing import Route
    from starlette.types import ASGIApp
except ModuleNotFoundError as error:
    raise MissingExtraError("The server", error.name or "fastapi", "server") from error

from memagent.agent.integrations.access.access import MemoryAccess
from memagent.agent.integrations.http import chat, memories, page
from memagent.agent.integrations.http.dependencies import Parts
from memagent.agent.integrations.http.errors import add_handlers
from memagent.agent.integrations.http.guard import Guard
from memagent.agent.integrations.http.identity import Identifier, RefusedError
from memagent.agent.integrations.http.keys import KeyStore, home_secret
from memagent.agent.integrations.http.limits import Limits, ReplyCounter
from memagent.agent.integrations.http.replies import Pools, Replies

_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI hands requests, with their texts, to whatever OpenTelemetry is set up in the process or by the environment."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served, and to whom.

    Attributes:
        home: the folders of the installation.
        open_pool: returns the pool of a backend; all pools share their models.
        backend: the memory of ``/v1/memories`` and ``/mcp``, whose id stands first in ``/v1/models``.
        local_user: whose memory requests without a key use; None: every request needs a key.
        loopback: the server listens on this machine's loopback interface only.
        limits: of the server.
    """

    home: Home
    open_pool: Callable[[str], MemoryPool]
    backend: str
    local_user: str | None
    loopback: bool = True
    limits: Limits = field(default_factory=Limits)


def create_app(serving: Serving) -> ASGIApp:
    """Return the server as an ASGI application. Its lifespan closes the memories.

    Args:
        serving: what is served, and to whom.

    Raises:
        MemagentError: keys or settings cannot be read.
    """
    pools = Pools(serving.open_pool, serving.backend)
    keys = KeyStore(serving.home)
    keys.records()
    parts = Parts(
        replies=Replies(pools, serving.backend, serving.limits),
        access=MemoryAccess(pools.default),
        identifier=Identifier(keys, serving.local_user, home_secret(serving.home)),
        counter=ReplyCounter(serving.limits),
        limits=serving.limits,
    )
    mcp = _mcp(pools.default, parts.identifier)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(parts.replies.close)
            stack.push_async_callback(parts.access.close)
            if mcp is not None:
                await stack.enter_async_context(mcp.running())
            yield

    app = FastAPI(
        telemetry=_NO_TELEMETRY,
        openapi_url=None,  # its page would load scripts from another site
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.parts = parts
    add_handlers(app)
    app.add_api_route("/healthz", _health)
    for router in (chat.router, memories.router, page.router):
        app.include_router(router)
    if mcp is not None:
        app.router.routes.append(Route("/mcp", mcp))
    return Guard(app, serving.limits, loopback=serving.loopback)


async def _health() -> dict[str, str]:
    """Say that the server runs. It needs no key and tells nothing else."""
    return {"status": "ok"}


def _mcp(pool: MemoryPool, identifier: Identifier) -> Any:
    """Return the tools of the Model Context Protocol as an application; None: its extra is not installed."""
    try:
        from memagent.agent.integrations.mcp import mcp_app
    except MissingExtraError:
        return None

    def user_of(scope: Mapping[str, Any]) -> str | None:
        try:
            return identifier.identify(scope).user
        except (RefusedError, MemagentError):
            return None

    return mcp_app(pool, user_of, check_hosts=False)
