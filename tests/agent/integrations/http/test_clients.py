"""Clients of OpenAI's API: the official one, LangChain's, llm; and what Open WebUI and LibreChat send."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from memagent.agent.home import Home
from memagent.agent.memory import open_journal
from tests.agent.integrations.http.serving import Served

BODIES = Path(__file__).parents[3] / "data" / "http_clients"
DOG = "My dog is called Biscuit."
QUESTION = "What is my dog called?"


def official(served: Served, key: str = "placeholder") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)


def test_the_official_client(served: Served) -> None:
    with official(served) as client:
        assert "none" in [model.id for model in client.models.list()]
        messages: Any = [{"role": "user", "content": DOG}]
        whole = client.chat.completions.create(model="bm25", messages=messages)
        assert whole.choices[0].message.content == DOG
        assert whole.usage is not None
        messages = [{"role": "user", "content": QUESTION}]
        stream = client.chat.completions.create(
            model="bm25", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert DOG in text
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens > 0


def test_the_official_client_raises_its_own_errors(served: Served) -> None:
    key, _ = served.keys.add("ben")
    messages: Any = [{"role": "user", "content": DOG}]
    with official(served, f"{key}x") as client, pytest.raises(openai.AuthenticationError, match="not valid"):
        client.models.list()
    with official(served, key) as client:
        with pytest.raises(openai.NotFoundError, match="names of memories"):
            client.chat.completions.create(model="gpt-4o", messages=messages)
        with pytest.raises(openai.BadRequestError, match="tools are not supported"):
            client.chat.completions.create(
                model="bm25", messages=messages, tools=[{"type": "function", "function": {"name": "f"}}]
            )


def test_two_users_stream_at_once_with_the_official_client(served: Served) -> None:
    async def converse(key: str, dog: str, other: str) -> None:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=key) as client:
            for text in (f"My dog is called {dog}.", QUESTION):
                stream = await client.chat.completions.create(
                    model="bm25", messages=[{"role": "user", "content": text}], stream=True
                )
                reply = "".join(
                    [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
                )
            assert dog in reply
            assert other not in reply

    async def run() -> None:
        keys = [served.keys.add(user)[0] for user in ("ana", "ben")]
        await asyncio.gather(converse(keys[0], "Biscuit", "Max"), converse(keys[1], "Max", "Biscuit"))

    asyncio.run(run())


def test_the_client_of_langchain(served: Served) -> None:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    key, _ = served.keys.add("ben")
    model = ChatOpenAI(model="bm25", base_url=f"{served.url}/v1", api_key=SecretStr(key))
    assert model.invoke(DOG).text == DOG
    chunks = list(model.stream([("user", QUESTION)], stream_usage=True))
    assert DOG in "".join(chunk.text for chunk in chunks)
    assert any(chunk.usage_metadata for chunk in chunks)


def test_the_program_llm(served: Served, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: memory\n  model_name: bm25\n  api_base: {served.url}/v1\n", "utf-8"
    )
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "placeholder"}
    for text in (DOG, QUESTION):
        done = subprocess.run(
            [sys.executable, "-m", "llm", "-m", "memory", text],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    assert DOG in done.stdout


@pytest.mark.parametrize("name", ["open_webui", "librechat"])
def test_the_requests_of_a_chat_in_a_browser(served: Served, home: Home, name: str) -> None:
    recorded = json.loads((BODIES / f"{name}.json").read_text("utf-8"))
    with served.client(**recorded["headers"]) as client:
        reply = send(client, recorded["first"])
        for part in ("title", "tags"):
            if part in recorded:
                assert send(client, recorded[part])
        second = json.loads(json.dumps(recorded["second"]).replace("REPLY", reply))
        assert send(client, second).endswith("What is it called?")
    with open_journal(home, "ana") as journal:
        (session,) = journal.session_names()
        assert session == recorded["headers"].get(
            "X-OpenWebUI-Chat-Id", recorded["headers"].get("X-Session-Id")
        )
        turns = list(journal.turns())
    assert [turn.text for turn in turns if turn.role == "user"] == [DOG, "What is it called?"]
    assert turns[-1].in_view == (1, 2, 3)


def send(client: httpx.Client, body: dict[str, Any]) -> str:
    """Send a request and return the reply, whether it is streamed or not."""
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    if not body["stream"]:
        return str(response.json()["choices"][0]["message"]["content"])
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert chunks[-1]["usage"]["total_tokens"] > 0
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
