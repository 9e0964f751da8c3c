"""memagent serve."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from memagent.backends.errors import InputError, SettingError
from memagent.cli.opening import backend_settings, fetch_models, home, load_model, shared_models
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
    from memagent.agent.integrations.http import Serving
    from memagent.agent.memory.pool import MemoryPool

DEFAULT_PORT = 8577
_IDLE_SECONDS = 30.0
"""Other programs of the same person wait for the memory."""
_WAIT_SECONDS = 2.0
"""A request is refused where another process holds the memory for so long."""


def serve(
    host: Annotated[
        str,
        typer.Option("--host", help="The address to listen at. Others than this machine's own need a key."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The port; 0: any that is free.")
    ] = DEFAULT_PORT,
    user: UserOption = DEFAULT_USER,
    backend: BackendOption = DEFAULT_BACKEND,
    set_: SetOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
) -> None:
    """Serve chats with a memory to clients of OpenAI's API, such as Open WebUI, LibreChat or llm.

    Clients use http://127.0.0.1:8577/v1 as base URL, and the name of a memory as model. Requests without a key use the
    memory of --user; they come from this machine only. `memagent keys add` makes keys for others.

    Examples:

      memagent serve --user ana

      memagent serve --host 0.0.0.0 --backend rag --model qwen2.5-coder-0.5b
    """
    from memagent.agent.integrations import http
    from memagent.agent.journal.records import check_name

    check_name("user name", user)
    settings = backend_settings(backend, set_)
    http.require()
    serving = _serving(host, user, backend, settings, model or user_settings().model)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # to standard error
    logging.getLogger("memagent.server").setLevel(logging.INFO)
    with _listen(host, port) as listener:
        fetch_models(backend, model=model, chat=True)
        load_model(model)
        app = http.create_app(serving)
        address = f"[{host}]" if ":" in host else host
        say(
            f"Serving at http://{address}:{listener.getsockname()[1]}/v1 ({'without a key, the memory of ' + user if serving.local_user else 'with keys only'})"
        )
        http.serve(app, listener)


def _serving(host: str, user: str, backend: str, settings: dict[str, str], model: str) -> Serving:
    """Return what is served; a host that others reach needs a key."""
    from memagent.agent.integrations.http import Serving
    from memagent.agent.integrations.http.identity import is_loopback
    from memagent.agent.integrations.http.keys import KeyStore
    from memagent.agent.memory.pool import MemoryPool

    loopback = is_loopback(host)
    if not loopback and not KeyStore(home()).records():
        raise SettingError(
            f"--host {host}: other machines can reach this address, and there is no key yet. "
            "Make one first: memagent keys add --user NAME"
        )

    def open_pool(name: str) -> MemoryPool:
        return MemoryPool(
            home(),
            backend=name,
            settings=settings if name == backend else backend_settings(name, None),
            model=model,
            models=shared_models(),
            idle_seconds=_IDLE_SECONDS,
            wait_seconds=_WAIT_SECONDS,
        )

    return Serving(home(), open_pool, backend, user if loopback else None, loopback)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        InputError: the address or the port cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"{host} with port {port} cannot be used: {error.strerror}. "
            "Choose others with --host and --port; port 0 takes any that is free."
        ) from error
