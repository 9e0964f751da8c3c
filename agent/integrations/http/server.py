"""The server as a program: it answers until the process is interrupted or terminated."""

from __future__ import annotations

import logging
import socket

import uvicorn
from starlette.types import ASGIApp

_GRACE_SECONDS = 10
"""Seconds that replies in progress have when the process is asked to end; then they are cut, and stored as far as they came."""


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Serve until the process is interrupted or terminated; then close the memories.

    Args:
        app: of ``create_app``.
        listener: a listening socket.
    """
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # it would hold whole addresses
        server_header=False,
        proxy_headers=False,  # no header says where a request comes from
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listener])
