"""Who may use the server: keys, the loopback interface, web pages of others, programs for many people; and its limits."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from memagent.agent.home import Home
from memagent.agent.integrations.http.keys import KeyStore
from memagent.agent.integrations.http.limits import Limits
from memagent.agent.memory import open_journal
from tests.agent.integrations.http.serving import Served, ask, body, serving

DOG = "My dog is called Biscuit."
QUESTION = "What is my dog called?"


def status(client: httpx.Client, **headers: str) -> int:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/chat/completions", json=body("Hello."), headers=sent).status_code


def test_each_key_opens_the_memory_of_its_user(served: Served) -> None:
    ana, _ = served.keys.add("ana")
    ben, _ = served.keys.add("ben")
    with served.client(ana) as of_ana, served.client(ben) as of_ben:
        ask(of_ana, DOG)
        ask(of_ben, "My dog is called Max.")
        assert "Biscuit" in ask(of_ana, QUESTION)
        assert "Max" not in ask(of_ana, QUESTION)
        reply = ask(of_ben, QUESTION)
        assert "Max" in reply
        assert "Biscuit" not in reply
        assert of_ben.get("/v1/memories/1").json()["text"] == "My dog is called Max."


def test_a_wrong_or_revoked_key_is_refused(served: Served) -> None:
    key, record = served.keys.add("ben")
    with served.client(key) as client:
        assert status(client) == 200
        served.keys.revoke(record.id)
        response = client.post("/v1/chat/completions", json=body("Hello."))
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/memories").status_code == 401
        assert client.post("/mcp", json={}).status_code == 401
        assert client.get("/healthz").status_code == 200


def test_a_placeholder_passes_on_this_machine_until_there_are_keys(served: Served) -> None:
    with served.client("placeholder") as client:
        assert status(client) == 200
        served.keys.add("ben")
        assert status(client) == 401
    with served.client() as client:
        assert status(client) == 200


def test_without_a_local_user_every_request_needs_a_key(home: Home) -> None:
    with serving(home, local_user=None, loopback=False) as served:
        with served.client() as client, served.client("placeholder") as other:
            assert status(client) == 401
            assert status(other) == 401
            assert client.get("/v1/models").status_code == 401
        key, _ = served.keys.add("ben")
        with served.client(key) as client:
            assert status(client) == 200
            assert status(client, Host="memory.example.com") == 200


def test_a_request_that_comes_through_a_proxy_needs_a_key(served: Served) -> None:
    key, _ = served.keys.add("ben")
    with served.client() as client, served.client(key) as with_key:
        assert status(client, X_Forwarded_For="10.0.0.1") == 401
        assert status(with_key, X_Forwarded_For="10.0.0.1") == 200


def test_foreign_web_pages_get_nothing(served: Served, home: Home) -> None:
    own = f"http://{urlsplit(served.url).netloc}"
    with served.client() as client:
        assert status(client, Origin=own) == 200
        before = _count(home)
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
            {"Host": "evil.example"},
            {"Host": "evil.example:8577"},
            {"Host": "127.0.0.1.evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            response = client.post("/v1/chat/completions", json=body("Hello again."), headers=headers)
            assert response.status_code in (403, 421), headers
            assert "access-control-allow-origin" not in response.headers
        preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        assert client.options("/v1/chat/completions", headers=preflight).status_code == 403
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert client.get("/", headers=link).status_code == 200
    assert _count(home) == before


def test_the_user_whom_a_program_names_counts_with_its_own_key_only(served: Served, home: Home) -> None:
    header = "X-OpenWebUI-User-Id"
    program, _ = served.keys.add("webui", header)
    with served.client(program) as client:
        assert client.get("/v1/models").status_code == 200
        refused = client.post("/v1/chat/completions", json=body("Hello."))
        assert refused.status_code == 400
        assert header in refused.json()["error"]["message"]
        for name in ("ana", "ben"):
            assert status(client, **{header.replace("-", "_"): name}) == 200
        assert status(client, **{header.replace("-", "_"): "x" * 300}) == 400
    with served.client() as client:  # the header of a request without that key says nothing
        assert status(client, **{header.replace("-", "_"): "webui/ana"}) == 200
    assert home.users() == ["ana", "webui/ana", "webui/ben"]


def test_an_oversized_body_is_refused(home: Home) -> None:
    with serving(home, limits=Limits(body_bytes=10_000)) as served, served.client() as client:
        for content in (b"x" * 20_000, iter([b"x" * 6_000, b"x" * 6_000])):
            response = client.post(
                "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
            )
            assert response.status_code == 413
            assert "10,000 bytes at most" in response.json()["error"]["message"]
        assert status(client) == 200


def test_a_body_that_does_not_come_is_not_waited_for(home: Home) -> None:
    with serving(home, limits=Limits(body_seconds=0.3)) as served:
        address = urlsplit(served.url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=5)
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"{")
        response = connection.getresponse()
        assert response.status == 408
        assert "did not come" in json.loads(response.read())["error"]["message"]
        connection.close()


def test_more_requests_than_the_limit_are_refused(home: Home) -> None:
    with serving(home, limits=Limits(requests=1, body_seconds=3)) as served, served.client() as client:
        address = urlsplit(served.url)
        with socket.create_connection((str(address.hostname), address.port or 0)) as waiting:
            waiting.sendall(
                f"POST /v1/memories HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 9\r\n\r\n".encode()
            )
            time.sleep(0.3)
            assert client.get("/healthz").status_code == 503


def test_the_log_has_no_texts_and_no_addresses_with_texts(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    key, _ = served.keys.add("ben")
    with caplog.at_level(logging.INFO, "memagent.server"), served.client(key) as client:
        ask(client, DOG)
        client.get("/v1/memories", params={"session": "Biscuit"})
        client.get("/Biscuit")
        client.post("/v1/memories", json={"text": DOG, "session": "Biscuit\n"})
    lines = [record.getMessage() for record in caplog.records if record.name == "memagent.server"]
    assert [line.split()[:2] for line in lines] == [
        ["POST", "/v1/chat/completions"],
        ["GET", "/v1/memories"],
        ["GET", "(no"],
        ["POST", "/v1/memories"],
    ]
    assert not any("Biscuit" in line or key in line for line in lines)


def test_the_mcp_tools_are_beside_and_use_the_memory_of_the_key(served: Served) -> None:
    key, _ = served.keys.add("ben")
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "list_memories", "arguments": {}},
    }
    with served.client(key) as client:
        ask(client, DOG)
        content = client.post("/mcp", json=call, headers=headers).json()
    assert content["result"]["structuredContent"]["memories"][1]["text"] == DOG


def test_keys_are_stored_as_digests_in_a_private_file(home: Home) -> None:
    store = KeyStore(home)
    key, record = store.add("ana")
    other, _ = store.add("ana")
    assert key != other
    assert len(key) == len("memagent_") + 43  # 256 bits in base64
    file = home.root / "keys.json"
    assert file.stat().st_mode & 0o777 == 0o600
    content = file.read_text("utf-8")
    assert key not in content
    assert record.sha256 in content
    assert KeyStore(home).find(key) == record


def _count(home: Home) -> int:
    with open_journal(home, "ana") as journal:
        return journal.count()
