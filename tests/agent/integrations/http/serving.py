"""A server in a thread of this process, at a free port of this machine."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from memagent.agent.home import Home
from memagent.agent.integrations.http import Serving, create_app
from memagent.agent.integrations.http.keys import KeyStore
from memagent.agent.integrations.http.limits import Limits
from memagent.agent.memory.pool import MemoryPool
from memagent.agent.models.chat import ChatModel


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    url: str
    keys: KeyStore

    def client(self, key: str | None = None, **headers: str) -> httpx.Client:
        """Return a client with a key."""
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)


@contextmanager
def serving(
    home: Home,
    *,
    backend: str = "bm25",
    model: str | ChatModel = "echo",
    local_user: str | None = "ana",
    limits: Limits | None = None,
    settings: dict[str, str] | None = None,
    loopback: bool = True,
    grace_seconds: int = 5,
) -> Iterator[Served]:
    """Serve until the context ends, then shut down as the program does."""

    def open_pool(name: str) -> MemoryPool:
        own = settings if name == backend else None
        return MemoryPool(home, backend=name, model=model, settings=own, wait_seconds=0.2)

    app = create_app(Serving(home, open_pool, backend, local_user, loopback, limits or Limits()))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=grace_seconds
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", KeyStore(home))
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def ask(client: httpx.Client, *texts: str, model: str = "bm25", **fields: Any) -> str:
    """Send a conversation, whose messages the user and the assistant say in turn, and return the reply."""
    response = client.post("/v1/chat/completions", json=body(*texts, model=model, **fields))
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def body(*texts: str, model: str = "bm25", **fields: Any) -> dict[str, Any]:
    """Return the body of a chat request."""
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
    return {"model": model, "messages": messages, **fields}
