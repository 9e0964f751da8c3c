"""Memories behind an OpenAI-compatible HTTP server: ``memagent serve``.

    from memagent.agent.integrations.http import Serving, create_app

It needs the extra ``server``. Names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memagent.agent.integrations.http.app import Serving, create_app
    from memagent.agent.integrations.http.server import serve

_HOME = {
    "Serving": "memagent.agent.integrations.http.app",
    "create_app": "memagent.agent.integrations.http.app",
    "serve": "memagent.agent.integrations.http.server",
}

__all__ = ["Serving", "create_app", "require", "serve"]


def require() -> None:
    """Make sure that the extra is installed, before anything is opened.

    Raises:
        MissingExtraError: it is not; the message contains the command that installs it.
    """
    import_module("memagent.agent.integrations.http.app")


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
