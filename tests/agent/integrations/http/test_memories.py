"""``/v1/memories``: add, search, list and delete."""

from __future__ import annotations

import pytest

from tests.agent.integrations.http.serving import Served, ask


def test_memories_are_added_searched_listed_and_deleted(served: Served) -> None:
    with served.client() as client:
        added = client.post("/v1/memories", json={"text": " My dog is called Biscuit. "})
        assert added.status_code == 201
        assert added.json() == {"id": 1, "session": "notes", "note": ""}
        client.post("/v1/memories", json={"text": "I live in Porto.", "session": "diary"})
        (best,) = client.post("/v1/memories/search", json={"query": "What is my dog called?"}).json()[
            "memories"
        ]
        assert (best["id"], best["text"]) == (1, "My dog is called Biscuit.")
        assert best["why"]
        page = client.get("/v1/memories", params={"limit": 1}).json()
        assert [memory["id"] for memory in page["memories"]] == [2]
        page = client.get("/v1/memories", params={"limit": 1, "cursor": page["next_cursor"]}).json()
        assert [memory["id"] for memory in page["memories"]] == [1]
        assert page["next_cursor"] is None
        assert client.get("/v1/memories", params={"session": "diary"}).json()["memories"][0]["id"] == 2
        assert client.delete("/v1/memories/1").json()["id"] == 1
        assert client.get("/v1/memories/1").status_code == 404
        assert client.delete("/v1/memories/1").status_code == 404
        assert not client.post("/v1/memories/search", json={"query": "What is my dog called?"}).json()[
            "memories"
        ]


def test_what_is_added_is_recalled_in_a_chat_and_what_is_deleted_is_not(served: Served) -> None:
    with served.client() as client:
        client.post("/v1/memories", json={"text": "My dog is called Biscuit."})
        assert "Biscuit" in ask(client, "What is my dog called?")
        assert client.delete("/v1/memories/1").json()["deleted_replies"] == [3]
        assert "Biscuit" not in ask(client, "And what is the name of my dog?")


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/memories", {"text": " "}, 400),
        ("POST", "/v1/memories", {"text": "x", "session": ""}, 400),
        ("POST", "/v1/memories", {"text": "x" * 40_000}, 400),
        ("POST", "/v1/memories", {}, 400),
        ("POST", "/v1/memories/search", {"query": " "}, 400),
        ("POST", "/v1/memories/search", {"query": "x", "limit": 51}, 400),
        ("GET", "/v1/memories?limit=0", None, 400),
        ("GET", "/v1/memories?cursor=x", None, 400),
        ("GET", "/v1/memories?session=nobody", None, 404),
        ("GET", "/v1/memories/x", None, 400),
        ("DELETE", "/v1/memories/99999999999999999999999", None, 400),
        ("PUT", "/v1/memories/1", {}, 405),
    ],
)
def test_wrong_requests_say_what_is_wrong(
    served: Served, method: str, path: str, content: object, status: int
) -> None:
    with served.client() as client:
        response = client.request(method, path, json=content)
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]
