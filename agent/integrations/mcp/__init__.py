"""Memories as tools of the Model Context Protocol: ``memagent mcp``, and an ASGI application for other servers.

    from memagent.agent.integrations.mcp import mcp_app, serve_stdio

It needs the extra ``mcp``. Names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memagent.agent.integrations.mcp.server import McpApp, UserOf, mcp_app, serve_http, serve_stdio

_IN_SERVER = ("McpApp", "UserOf", "mcp_app", "serve_http", "serve_stdio")

__all__ = ["McpApp", "UserOf", "mcp_app", "require", "serve_http", "serve_stdio"]


def require() -> None:
    """Make sure that the extra is installed, before anything is opened.

    Raises:
        MissingExtraError: it is not; the message contains the command that installs it.
    """
    import_module("memagent.agent.integrations.mcp.server")


def __getattr__(name: str) -> object:
    if name in _IN_SERVER:
        return getattr(import_module("memagent.agent.integrations.mcp.server"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
