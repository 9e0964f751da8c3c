"""Requests with changed values and bytes: each is answered, none brings the server to its knees."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx2
import pytest

from memagent.agent.home import Home
from memagent.agent.integrations.mcp import mcp_app
from memagent.agent.memory import open_journal
from memagent.agent.memory.pool import MemoryPool

CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("add_memory", {"text": "My dog is called Biscuit.", "session": "pets"}),
    ("search_memories", {"query": "dog", "limit": 3}),
    ("get_memory", {"id": 1}),
    ("update_memory", {"id": 1, "text": "My dog is called Rex."}),
    ("list_memories", {"cursor": "3", "limit": 2}),
    ("delete_memory", {"id": 2}),
)
VALUES: tuple[Any, ...] = (None, -1, 2**80, 1e300, "", "\0", "\ud800", "x" * 5000, [], {}, True, "12")
VERSIONS = ("2025-06-18", "2025-11-25", "2026-07-28", "x")


def mutated(generator: random.Random) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a request."""
    name, arguments = generator.choice(CALLS)
    changed = {
        key: generator.choice(VALUES) if generator.random() < 0.4 else value
        for key, value in arguments.items()
    }
    method = generator.choice(["tools/call"] * 8 + ["tools/list", "initialize", "nothing"])
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": name, "arguments": changed}}
    body = bytearray(json.dumps(message).encode())
    if generator.random() < 0.3:
        body[generator.randrange(len(body))] = generator.randrange(256)
    headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    if generator.random() < 0.7:
        headers["MCP-Protocol-Version"] = generator.choice(VERSIONS)
    return bytes(body), headers


def test_200_mutated_requests_are_answered(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> list[int]:
        generator = random.Random(3)
        with MemoryPool(home, backend="bm25", model="echo") as pool:
            application = mcp_app(pool, lambda _: "ana")
            transport = httpx2.ASGITransport(app=application)
            async with (
                application.running(),
                httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:80") as client,
            ):
                requests = [mutated(generator) for _ in range(200)]
                return [
                    (await client.post("/mcp", content=body, headers=headers)).status_code
                    for body, headers in requests
                ]

    statuses = asyncio.run(run())
    assert set(statuses) == {200, 400}
    assert statuses.count(200) > 50
    assert "unexpected exception" not in caplog.text
    with open_journal(home, "ana") as journal:
        assert not journal.audit()
