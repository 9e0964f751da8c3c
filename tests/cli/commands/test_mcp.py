"""memagent mcp as a program: over standard input and output, and over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from memagent.agent.home import Home
from memagent.agent.memory import Memory, open_journal
from tests.agent.integrations.mcp.calling import call
from tests.cli.running import Run, run  # noqa: F401 - a fixture

PROGRAM = [sys.executable, "-m", "memagent.cli.main", "mcp", "--user", "ana", "--backend", "bm25"]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def adding(number: int) -> dict[str, object]:
    arguments = {"text": f"Fact {number}.", "session": "facts"}
    return {
        "jsonrpc": "2.0",
        "id": number,
        "method": "tools/call",
        "params": {"name": "add_memory", "arguments": arguments},
    }


def lines(messages: Sequence[object]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def converse(messages: Sequence[object], answers: int) -> list[dict[str, Any]]:
    """Send messages to a server, read so many answers, and close its input; nothing else may come out."""
    with subprocess.Popen(
        PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stderr is not None
        server.stdin.write(lines(messages))
        server.stdin.flush()
        read = [json.loads(server.stdout.readline()) for _ in range(answers)]
        server.stdin.close()
        assert not server.stdout.read()
        assert b"Traceback" not in server.stderr.read()
    assert server.returncode == 0
    return read


@pytest.mark.usefixtures("home")
def test_the_official_client_over_stdio() -> None:
    async def scene() -> None:
        server = StdioServerParameters(command=PROGRAM[0], args=PROGRAM[1:], env=dict(os.environ))
        async with Client(server) as client:
            assert client.server_info is not None
            assert client.server_info.name == "memagent"
            assert (await call(client, "add_memory", text="My dog is called Biscuit."))["id"] == 1
            (best,) = (await call(client, "search_memories", query="What is my dog called?"))["memories"]
            assert best["text"] == "My dog is called Biscuit."

    asyncio.run(scene())


def test_standard_output_carries_the_protocol_only_and_the_end_of_input_closes_the_memory(home: Home) -> None:
    messages = [INITIALIZE, INITIALIZED, *map(adding, range(1, 6)), "no message", adding(6)]
    answers = converse(messages, 7)
    assert all(answer["jsonrpc"] == "2.0" for answer in answers)
    stored = [answer["result"]["structuredContent"]["id"] for answer in answers if answer["id"]]
    assert sorted(stored) == [1, 2, 3, 4, 5, 6]
    with Memory.open(home, "ana", "bm25", wait_seconds=0.0) as memory:
        assert memory.position.seq == 6


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_server_loses_nothing_that_it_acknowledged(home: Home) -> None:
    with subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        acknowledged: list[int] = []
        with suppress(BrokenPipeError):
            server.stdin.write(lines([INITIALIZE, INITIALIZED, *map(adding, range(1, 200))]))
            server.stdin.flush()
        for line in server.stdout:
            answer = json.loads(line)
            if answer["id"]:
                acknowledged.append(answer["result"]["structuredContent"]["id"])
            if len(acknowledged) == 10:
                server.send_signal(signal.SIGKILL)  # in the middle of later calls
                break
        acknowledged += [
            json.loads(line)["result"]["structuredContent"]["id"]
            for line in server.stdout.read().splitlines(keepends=True)
            if line.endswith(b"\n")
        ]
    with Memory.open(home, "ana", "bm25", wait_seconds=0.0) as memory:
        turns = {turn.seq: turn.text for turn in memory.journal.turns()}
        assert set(acknowledged) <= set(turns)
        assert not memory.journal.audit()
        assert memory.position.seq == max(turns)


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_whose_client_stays_can_be_interrupted(home: Home, number: signal.Signals) -> None:
    with subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(lines([INITIALIZE, INITIALIZED, adding(1)]))
        server.stdin.flush()
        assert json.loads(server.stdout.readline())["id"] == 0
        assert json.loads(server.stdout.readline())["id"] == 1
        server.send_signal(number)
        assert server.wait(timeout=10) == -number
    with Memory.open(home, "ana", "bm25", wait_seconds=0.0) as memory:
        assert memory.recall("Fact 1.")


@pytest.mark.usefixtures("home")
def test_the_official_client_over_http() -> None:
    with subprocess.Popen([*PROGRAM, "--http", "--port", "0"], stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        try:
            words = server.stderr.readline().decode().split()
            assert words[:-1] == ["Serving", "the", "memory", "of", "ana", "at"]

            async def scene() -> None:
                async with Client(words[-1]) as client:
                    assert (await call(client, "add_memory", text="My dog is called Biscuit."))["id"] == 1
                    assert len((await call(client, "list_memories"))["memories"]) == 1

            asyncio.run(scene())
        finally:
            server.terminate()
        assert server.wait(timeout=30) in (0, -signal.SIGTERM)


def test_what_is_wrong_is_said_before_anything_is_served(run: Run, home: Home) -> None:  # noqa: F811
    for arguments, message in (
        (("--user", " "), b"The user name is empty"),
        (("--backend", "nothing"), b"There is no backend 'nothing'"),
        (("--set", "depth=7"), b"depth"),
    ):
        done = run("mcp", *arguments)
        assert done.exit_code == 1
        assert message in done.stderr
        assert not done.stdout
    assert not home.users()


@pytest.mark.usefixtures("home")
def test_a_port_that_is_taken(run: Run) -> None:  # noqa: F811
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = run("mcp", "--http", "--port", str(listener.getsockname()[1]))
    assert done.exit_code == 1
    assert b"cannot be used" in done.stderr
    assert b"--port" in done.stderr


def test_without_the_package_the_message_says_how_to_install_it(home: Home, tmp_path: Path) -> None:
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError(name='mcp')", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(PROGRAM, env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"pip install 'memagent[mcp]'" in done.stderr
    assert not done.stdout
    assert not home.users()


def test_the_journal_of_a_memory_that_a_chat_has_open_gets_the_addition(home: Home) -> None:
    with Memory.open(home, "ana", "bm25") as chat:
        answer = converse([INITIALIZE, INITIALIZED, adding(1)], 2)[1]
        assert "Another program has the memory open" in answer["result"]["structuredContent"]["note"]
        assert [item.text for item in chat.recall("Fact 1.")] == ["Fact 1."]
    with open_journal(home, "ana") as journal:
        assert journal.count() == 1
