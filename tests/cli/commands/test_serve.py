"""memagent serve as a program: it starts, stops at a signal, and loses nothing when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from memagent.agent.home import Home
from memagent.agent.memory import Memory
from tests.cli.running import Run, run  # noqa: F401 - a fixture

PROGRAM = [sys.executable, "-m", "memagent.cli.main", "serve", "--user", "ana", "--backend", "bm25"]
DOG = "My dog is called Biscuit."
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")


@contextmanager
def program(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Run the server with the echo model, and yield it with a client."""
    command = [*PROGRAM, "--port", "0", "--model", "echo", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        try:
            line = server.stderr.readline().decode()
            assert line.startswith("Serving at http://127.0.0.1:"), line
            with httpx.Client(base_url=line.split()[2].removesuffix("/v1"), timeout=30) as client:
                yield server, client
        finally:
            server.kill()


def chat(text: str, **fields: object) -> dict[str, object]:
    return {"model": "bm25", "messages": [{"role": "user", "content": text}], **fields}


def test_it_serves_until_it_is_terminated_and_then_stores_the_memory(home: Home, run: Run) -> None:  # noqa: F811
    with program() as (server, client):
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.post("/v1/chat/completions", json=chat(DOG)).status_code == 200
        # A terminal beside it recalls what the server has remembered.
        recalled = run("recall", "What is my dog called?", "--user", "ana", "--backend", "bm25")
        assert DOG.encode() in recalled.stdout
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) in (0, -signal.SIGTERM)
        assert server.stderr is not None
        log = server.stderr.read()
    assert b"POST /v1/chat/completions 200" in log
    assert b"Traceback" not in log
    assert b"Biscuit" not in log
    with Memory.open(home, "ana", "bm25", wait_seconds=0.0) as memory:
        assert memory.position.seq == 2


def test_a_reply_in_progress_ends_when_the_server_is_terminated(home: Home) -> None:
    text = "word " * 400
    with program() as (server, client):
        with client.stream("POST", "/v1/chat/completions", json=chat(text, stream=True)) as response:
            lines = response.iter_lines()
            next(lines)
            server.send_signal(signal.SIGTERM)
            assert list(lines)[-2] == "data: [DONE]"
        assert server.wait(timeout=30) in (0, -signal.SIGTERM)
    with Memory.open(home, "ana", "bm25", wait_seconds=0.0) as memory:
        assert [turn.role for turn in memory.journal.turns()] == ["user", "assistant"]


def test_a_killed_server_loses_nothing_that_it_acknowledged(home: Home) -> None:
    acknowledged: list[str] = []
    with program() as (server, client):
        for number in range(20):
            client.post("/v1/chat/completions", json=chat(f"Fact {number}.", max_tokens=2))
            acknowledged.append(f"Fact {number}.")
        with client.stream("POST", "/v1/chat/completions", json=chat("word " * 400, stream=True)) as response:
            next(response.iter_lines())
            server.kill()
            server.wait()
    with Memory.open(home, "ana", "bm25", wait_seconds=0.0) as memory:
        turns = list(memory.journal.turns())
        assert not memory.journal.audit()
        assert memory.position.seq == turns[-1].seq
    assert [turn.text for turn in turns if turn.role == "user"][:20] == acknowledged
    assert len([turn for turn in turns if turn.role == "user"]) == 21


def test_what_is_wrong_is_said_before_anything_is_served(run: Run, home: Home) -> None:  # noqa: F811
    for arguments, message in (
        (("--user", " "), b"The user name is empty"),
        (("--backend", "nothing"), b"There is no backend 'nothing'"),
        (("--set", "depth=7"), b"depth"),
        (("--host", "0.0.0.0"), b"there is no key yet"),  # noqa: S104 - it is refused
        (("--host", "no.such.address.invalid"), b"there is no key yet"),
    ):
        done = run("serve", "--model", "echo", *arguments)
        assert done.exit_code == 1
        assert message in done.stderr
        assert not done.stdout
    assert not home.users()


@pytest.mark.usefixtures("home")
def test_a_port_that_is_taken(run: Run) -> None:  # noqa: F811
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = run("serve", "--model", "echo", "--port", str(listener.getsockname()[1]))
    assert done.exit_code == 1
    assert b"cannot be used" in done.stderr
    assert b"--port" in done.stderr


def test_without_the_packages_the_message_says_how_to_install_them(home: Home, tmp_path: Path) -> None:
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError(name='fastapi')", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(PROGRAM, env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"pip install 'memagent[server]'" in done.stderr
    assert not home.users()


@pytest.mark.parametrize("statement", ["import memagent", "import memagent.cli.main"])
def test_nothing_of_the_server_is_loaded_before_it_is_used(statement: str) -> None:
    program = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"fastapi", "starlette", "uvicorn", "pydantic", "mcp", "torch", "sqlalchemy"}
