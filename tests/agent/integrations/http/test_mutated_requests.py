"""Requests that were changed at random: none makes the server fail, and none is half remembered."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any

import httpx

from memagent.agent.home import Home
from memagent.agent.memory import Memory
from tests.agent.integrations.http.serving import Served, body

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    "",
    " ",
    "\0",
    "\u202e\u0301",
    "x" * 70_000,
    [],
    [[]],
    {},
    {"type": "text"},
    {"role": "user"},
    [{"type": "text", "text": None}],
    [{"type": []}],
    [None],
    "none",
    "Infinity",
]
REQUESTS = (
    (
        "/v1/chat/completions",
        body(
            "Hello.",
            "Hello!",
            "How are you?",
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=5,
            temperature=0.5,
            seed=1,
            stop=["x"],
            metadata={"session_id": "s"},
            n=1,
            user="ana",
        ),
    ),
    ("/v1/memories", {"text": "A fact.", "session": "notes"}),
    ("/v1/memories/search", {"query": "Which fact?", "limit": 5}),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def mutated(request: dict[str, Any], chance: random.Random) -> bytes:
    """Return the bytes of a request with a few values changed, removed, doubled, or with changed bytes."""
    content: Any = {"root": json.loads(json.dumps(request))}
    for _ in range(chance.randint(1, 2)):
        path = ("root", *chance.choice(places(content["root"])))
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        if chance.random() < 0.2 and path != ("root",):
            del parent[path[-1]]
        else:
            parent[path[-1]] = deepcopy(chance.choice(VALUES))
    data = bytearray(json.dumps(content["root"]).encode())
    if chance.random() < 0.3:
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.randint(0, len(data))] if chance.random() < 0.1 else data)


def test_mutated_requests_are_answered_or_refused_and_the_journal_stays_whole(
    served: Served, home: Home
) -> None:
    chance = random.Random(22)
    statuses: dict[int, int] = {}
    with served.client() as client:
        for _ in range(300):
            path, request = chance.choice(REQUESTS)
            headers = {"Content-Type": "application/json"}
            if chance.random() < 0.3:
                name = chance.choice(["Authorization", "X-Session-Id", "Origin", "Content-Type", "Host"])
                headers[name] = chance.choice(
                    ["", "Bearer", "Bearer \xff", "x" * 300, "[::1", "http://[", "é"]
                )
            response = send(client, path, mutated(request, chance), headers)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            assert response.status_code < 500, response.text
            if response.status_code >= 400 and response.headers["content-type"] == "application/json":
                assert response.json()["error"]["message"]
        assert statuses[200] + statuses[201] > 10
        assert statuses[400] > 100
    with Memory.open(home, "ana", "bm25", read_only=True) as memory:
        assert not memory.journal.audit()
        assert memory.position.seq == max(turn.seq for turn in memory.journal.turns())


def send(client: httpx.Client, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
    encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    return client.post(path, content=content, headers=encoded)
