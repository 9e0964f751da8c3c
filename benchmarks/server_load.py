"""A server under load: own memories only, time to the first token, requests a second, memory of the process.

    python benchmarks/server_load.py parallel                     # 32 users at once, with SmolLM2
    python benchmarks/server_load.py parallel --model qwen2.5-coder-0.5b --reply 16
    python benchmarks/server_load.py growth --requests 1000       # with the model echo
    python benchmarks/server_load.py turns --model qwen2.5-coder-0.5b

``parallel``: each of the users tells a fact of their own, then all ask for it at the same time, in a stream. ``own`` counts the
users to whom only their own fact was recalled, ``foreign`` those to whom another's was: what the server recalled is read from the
journals afterwards. ``growth``: requests of a few users, and the resident memory of the server's process before and after.
``turns``: the first token of each turn of a conversation whose client resends the whole history.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from memagent.agent.home import Home
from memagent.agent.integrations.http.keys import KeyStore
from memagent.agent.memory import open_journal

NAMES = [
    "Amber",
    "Basil",
    "Cedar",
    "Dune",
    "Ember",
    "Fern",
    "Ginger",
    "Hazel",
    "Indigo",
    "Juniper",
    "Kiwi",
    "Lotus",
    "Maple",
    "Nutmeg",
    "Olive",
    "Pepper",
]
HISTORY = (
    "Please explain how a sailing boat moves against the wind, in a few sentences.",
    "And which knots does a beginner need first on such a boat?",
    "Thank you. What should I take along for a day trip?",
    "How do I see on the water that a squall comes?",
)


@dataclass(frozen=True)
class Server:
    """A server of its own process.

    Attributes:
        url: its base URL.
        pid: of the process.
        home: its folders.
    """

    url: str
    pid: int
    home: Home

    def resident_mib(self) -> float:
        """Return the resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text("utf-8")
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) / 1024


@contextmanager
def server(model: str, backend: str) -> Iterator[Server]:
    """Start ``memagent serve`` in an empty home, and end it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home", Home.from_environment().models)
        environment = os.environ | {"MEMAGENT_HOME": str(home.root), "MEMAGENT_MODELS": str(home.models)}
        command = [sys.executable, "-m", "memagent.cli.main", "serve", "--port", "0"]
        command += ["--model", model, "--backend", backend]
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            url = next(line.split()[2] for line in lines if line.startswith("Serving at"))
            drain = ThreadPoolExecutor(1)
            drain.submit(lambda: [None for _ in lines])
            yield Server(url, process.pid, home)
            process.terminate()
            process.wait(60)
            drain.shutdown()


@dataclass(frozen=True)
class Reply:
    """A streamed reply.

    Attributes:
        text: all of it.
        first_token: seconds from the request to its first token.
        total: seconds from the request to its end.
        prompt_tokens: size of the prompt.
    """

    text: str
    first_token: float
    total: float
    prompt_tokens: int


def stream(url: str, key: str, messages: list[dict[str, str]], backend: str, reply_tokens: int) -> Reply:
    """Send a request and read its stream."""
    body = {
        "model": backend,
        "messages": messages,
        "stream": True,
        "max_tokens": reply_tokens,
        "stream_options": {"include_usage": True},
    }
    headers = {"Authorization": f"Bearer {key}"}
    began, first_token, text, prompt_tokens = time.monotonic(), 0.0, "", 0
    with httpx.stream("POST", f"{url}/chat/completions", json=body, headers=headers, timeout=600) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if not line or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            assert "error" not in chunk, chunk
            for choice in chunk["choices"]:
                if choice["delta"].get("content"):
                    first_token = first_token or time.monotonic() - began
                    text += choice["delta"]["content"]
            prompt_tokens = (chunk.get("usage") or {}).get("prompt_tokens", prompt_tokens)
    return Reply(text, first_token, time.monotonic() - began, prompt_tokens)


def user_message(text: str) -> list[dict[str, str]]:
    """Return a conversation of one message."""
    return [{"role": "user", "content": text}]


def parallel(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let many users ask at once."""
    count = arguments.users
    dogs = [f"{NAMES[number % len(NAMES)]}{number}" for number in range(count)]
    with server(arguments.model, arguments.memory) as running, ThreadPoolExecutor(count) as threads:
        keys = [KeyStore(running.home).add(f"user{number}")[0] for number in range(count)]

        def send(number: int, text: str, reply_tokens: int) -> Reply:
            return stream(running.url, keys[number], user_message(text), arguments.memory, reply_tokens)

        for number, dog in enumerate(dogs):
            send(number, f"My dog is called {dog}.", 1)
        question = "What is my dog called?"
        alone = send(0, "What is the name of my dog?", arguments.reply)
        began = time.monotonic()
        replies = list(threads.map(lambda number: send(number, question, arguments.reply), range(count)))
        seconds = time.monotonic() - began
        recalled = [recalled_text(running.home, f"user{number}", question) for number in range(count)]
        resident = running.resident_mib()
    others = [set(dogs) - {dog} for dog in dogs]
    return {
        "model": arguments.model,
        "memory": arguments.memory,
        "users": count,
        "own": sum(dog in text for dog, text in zip(dogs, recalled, strict=True)),
        "foreign": sum(
            any(dog in names_of(text) for dog in other) for other, text in zip(others, recalled, strict=True)
        ),
        "foreign in replies": sum(
            any(dog in names_of(reply.text) for dog in other)
            for other, reply in zip(others, replies, strict=True)
        ),
        "answered": sum(dog in reply.text for dog, reply in zip(dogs, replies, strict=True)),
        "first token alone, s": round(alone.first_token, 2),
        "first token, median, s": round(statistics.median(reply.first_token for reply in replies), 2),
        "first token, last, s": round(max(reply.first_token for reply in replies), 2),
        "requests a second": round(count / seconds, 2),
        "resident, MiB": round(resident),
    }


def names_of(text: str) -> set[str]:
    """Return the words of a text: ``Amber1`` is none of ``Amber10``."""
    return set(re.findall(r"\w+", text))


def recalled_text(home: Home, user: str, question: str) -> str:
    """Return what the reply to a question had in view from memory."""
    with open_journal(home, user) as journal:
        question_seq = max(turn.seq for turn in journal.turns() if turn.text == question)
        reply = next(turn for turn in journal.turns(after=question_seq) if turn.role == "assistant")
        return "\n".join(turn.text for turn in journal.get(reply.recalled))


def growth(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the resident memory before and after many requests."""
    users, parallel_requests = 8, 8
    with server(arguments.model, arguments.memory) as running:
        keys = [KeyStore(running.home).add(f"user{number}")[0] for number in range(users)]

        def send(number: int) -> Reply:
            text = f"Fact {number}: the {NAMES[number % len(NAMES)]} house has number {number}."
            return stream(
                running.url, keys[number % users], user_message(text), arguments.memory, arguments.reply
            )

        with ThreadPoolExecutor(parallel_requests) as threads:
            list(threads.map(send, range(100)))
            before = running.resident_mib()
            began = time.monotonic()
            half = arguments.requests // 2
            replies = list(threads.map(send, range(100, 100 + half)))
            middle = running.resident_mib()
            replies += threads.map(send, range(100 + half, 100 + arguments.requests))
            seconds = time.monotonic() - began
            after = running.resident_mib()
    return {
        "model": arguments.model,
        "memory": arguments.memory,
        "requests": arguments.requests,
        "resident before, MiB": round(before, 1),
        "after half, MiB": round(middle, 1),
        "after all, MiB": round(after, 1),
        "first token, median, s": round(statistics.median(reply.first_token for reply in replies), 3),
        "requests a second": round(arguments.requests / seconds, 1),
    }


def turns(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the first token of each turn of a conversation, each run with a user of its own."""
    rows: list[list[Reply]] = []
    with server(arguments.model, arguments.memory) as running:
        for run in range(arguments.repeats + 1):
            key = KeyStore(running.home).add(f"user{run}")[0]
            messages: list[dict[str, str]] = [{"role": "system", "content": "Answer in English. " * 20}]
            replies = []
            for text in HISTORY:
                messages.append({"role": "user", "content": text})
                reply = stream(running.url, key, messages, arguments.memory, arguments.reply)
                messages.append({"role": "assistant", "content": reply.text.strip()})
                replies.append(reply)
            if run:  # the first one warms up
                rows.append(replies)
    return {
        "model": arguments.model,
        "memory": arguments.memory,
        "prompt tokens": [round(statistics.median(r[turn].prompt_tokens for r in rows)) for turn in range(4)],
        "first token, s": [
            round(statistics.median(r[turn].first_token for r in rows), 2) for turn in range(4)
        ],
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["parallel", "growth", "turns"])
    parser.add_argument("--model", help="default: smollm2-135m; echo for growth")
    parser.add_argument("--memory", default="rag")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--reply", type=int, default=24, help="most tokens of a reply")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    arguments.model = arguments.model or ("echo" if arguments.part == "growth" else "smollm2-135m")
    part = {"parallel": parallel, "growth": growth, "turns": turns}[arguments.part]
    print(json.dumps(part(arguments), indent=2))


if __name__ == "__main__":
    main()
