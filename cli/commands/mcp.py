"""memagent mcp."""

from __future__ import annotations

import logging
import signal
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from memagent.backends.errors import InputError
from memagent.cli.opening import backend_settings, home, shared_models
from memagent.cli.options import (
    DEFAULT_BACKEND,
    DEFAULT_USER,
    BackendOption,
    EmbedderOption,
    ModelOption,
    SetOption,
    UserOption,
    user_settings,
)
from memagent.cli.rendering.output import say

if TYPE_CHECKING:
    from memagent.agent.memory.pool import MemoryPool

DEFAULT_PORT = 8578
_IDLE_SECONDS = 30.0
"""Other programs of the same person wait for the memory: a desktop program keeps its server running all day."""
_WAIT_SECONDS = 0.5
"""A call goes on without the lock where another process holds it for so long."""


def mcp(
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    http: Annotated[
        bool, typer.Option("--http", help="Serve over streamable HTTP on this machine, instead of stdio.")
    ] = False,
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65535, help="Port of --http; 0: any that is free."),
    ] = DEFAULT_PORT,
    set_: SetOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
) -> None:
    """Serve a user's memory as tools of the Model Context Protocol, for Claude Desktop, editors and agents.

    The client starts this command and talks to it over standard input and output. With --http, clients of this machine
    connect to http://127.0.0.1:8578/mcp, without a key. Whoever connects uses the memory of --user.

    Examples:

      memagent mcp --user ana

      memagent mcp --user ana --http --port 9000
    """
    from memagent.agent.integrations import mcp as integration
    from memagent.agent.journal.records import check_name
    from memagent.agent.memory.pool import MemoryPool

    check_name("user name", user)
    settings = backend_settings(backend, set_)
    integration.require()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # to standard error
    pool = MemoryPool(
        home(),
        backend=backend,
        settings=settings,
        model=model or user_settings().model,
        models=shared_models(),
        idle_seconds=_IDLE_SECONDS,
        wait_seconds=_WAIT_SECONDS,
    )
    with pool:
        _serve(pool, user, port if http else None)


def _serve(pool: MemoryPool, user: str, port: int | None) -> None:
    """Serve until the client leaves, or the process is interrupted.

    Args:
        pool: the memories.
        user: whose memory it is.
        port: for streamable HTTP; None: over standard input and output.

    Raises:
        InputError: the port is taken.
    """
    import asyncio

    from memagent.agent.integrations.mcp import serve_http, serve_stdio

    if port is None:
        # Python's own handler waits for a thread that reads standard input. What was acknowledged is in the journal.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        asyncio.run(serve_stdio(pool, user))
        return
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise InputError(
            f"Port {port} cannot be used: {error.strerror}. Choose another one with --port; 0 takes any that is free."
        ) from error
    with listener:
        say(f"Serving the memory of {user} at http://127.0.0.1:{listener.getsockname()[1]}/mcp")
        asyncio.run(serve_http(pool, user, listener))
