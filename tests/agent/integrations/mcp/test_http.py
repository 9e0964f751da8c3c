"""The MCP server as an ASGI application, called by the official client over HTTP: each key has its own memory."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from mcp import Client
from mcp.client.client import ConnectMode
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette
from starlette.routing import Route

from memagent.agent.home import Home
from memagent.agent.integrations.mcp import mcp_app
from memagent.agent.memory.pool import MemoryPool
from tests.agent.integrations.mcp.calling import call, refusal

USERS = {"Bearer key-of-ana": "ana", "Bearer key-of-ben": "ben"}


def user_of(scope: MutableMapping[str, Any]) -> str | None:
    """Return the user of a request's key."""
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    return USERS.get(headers.get("authorization", ""))


@pytest.fixture
def pool(home: Home) -> Iterator[MemoryPool]:
    with MemoryPool(home, backend="bm25", model="echo") as pool:
        yield pool


@asynccontextmanager
async def serving(pool: MemoryPool) -> AsyncIterator[str]:
    """Serve at a free port of this machine, and yield the URL."""
    mcp = mcp_app(pool, user_of)
    application = Starlette(routes=[Route("/mcp", mcp)], lifespan=lambda _: mcp.running())
    server = uvicorn.Server(uvicorn.Config(application, log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def client_of(url: str, user: str, mode: ConnectMode = "auto") -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer key-of-{user}"}, timeout=60) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_each_key_has_its_own_memory_also_at_the_same_time(pool: MemoryPool, mode: ConnectMode) -> None:
    async def converse(url: str, user: str, dog: str) -> None:
        async with client_of(url, user, mode) as client:
            for number in range(5):
                added = await call(client, "add_memory", text=f"My dog {number} is called {dog}.")
                assert added["id"] == number + 1
                found = await call(client, "search_memories", query="What is my dog called?", limit=50)
                assert len(found["memories"]) == number + 1
                assert all(dog in memory["text"] for memory in found["memories"])

    async def run() -> None:
        async with serving(pool) as url:
            await asyncio.gather(converse(url, "ana", "Biscuit"), converse(url, "ben", "Max"))
            async with client_of(url, "ben", mode) as client:
                assert len((await call(client, "list_memories"))["memories"]) == 5
                await call(client, "delete_memory", id=1)
            async with client_of(url, "ana", mode) as client:
                assert (await call(client, "get_memory", id=1))["text"] == "My dog 0 is called Biscuit."
                assert "no memory 9" in await refusal(client, "get_memory", id=9)

    asyncio.run(run())


def test_a_client_goes_on_after_the_server_was_started_anew(pool: MemoryPool) -> None:
    async def run() -> None:
        async with serving(pool) as url, client_of(url, "ana", "legacy") as client:
            await call(client, "add_memory", text="My dog is called Biscuit.")
        async with serving(pool) as other, httpx2.AsyncClient(timeout=60) as http:
            message = request("tools/call", name="get_memory", arguments={"id": 1})
            done = await http.post(
                other, json=message, headers=LEGACY | {"Authorization": "Bearer key-of-ana"}
            )
        assert done.json()["result"]["structuredContent"]["text"] == "My dog is called Biscuit."

    asyncio.run(run())


LEGACY = {
    "Accept": "application/json, text/event-stream",
    "Content-Type": "application/json",
    "MCP-Protocol-Version": "2025-06-18",
    "Mcp-Session-Id": "of-a-server-that-is-no-more",
}


def request(method: str, **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Authorization": ""}, request("tools/list"), 401),
        ({"Authorization": "Bearer key-of-eve"}, request("tools/list"), 401),
        ({"Host": "evil.example"}, request("tools/list"), 421),
        ({"Origin": "https://evil.example"}, request("tools/list"), 403),
        ({}, "{", 400),
        ({}, request("tools/call", name="add_memory", arguments={"text": "x" * 5_000_000}), 413),
        ({}, request("tools/list"), 200),
    ],
)
def test_requests_that_may_not_or_cannot_be_answered(
    pool: MemoryPool, headers: dict[str, str], body: object, status: int
) -> None:
    async def run() -> httpx2.Response:
        async with serving(pool) as url, httpx2.AsyncClient(timeout=60) as http:
            content = body if isinstance(body, str) else json.dumps(body)
            sent = LEGACY | {"Authorization": "Bearer key-of-ana"} | headers
            return await http.post(url, content=content, headers=sent)

    response = asyncio.run(run())
    assert response.status_code == status, response.text
    if status == 401:
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert response.json()["error"] == "invalid_token"
    assert not pool.home.users()
