"""The main job on the real model (491 MB), each command in a process of its own; `.ci/run` runs the first test, too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.home import Home

DATA = json.loads((Path(__file__).parent / "data" / "twelve_facts.json").read_text(encoding="utf-8"))

Run = Callable[..., str]


@pytest.fixture
def run(home: Home, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``memagent`` in a new process with the default models and return what it printed."""
    monkeypatch.delenv("MEMAGENT_EMBEDDER")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run_(*arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("memagent")), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_


def ask(run: Run, question: str, *options: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run("chat", "-p", question, "--output", "json", *options))
    return answer


def is_right(reply: str, fact: dict[str, Any]) -> bool:
    return any(answer in reply.casefold() for answer in fact["answers"])


@pytest.mark.slow
def test_a_fact_told_on_monday_is_known_on_tuesday(run: Run) -> None:
    run("chat", "--backend", "rag", "-p", "My dog is called Biscuit.", "--session", "monday")
    reply = run("chat", "--backend", "rag", "-p", "What is my dog called?", "--session", "tuesday")
    assert "Biscuit" in reply
    assert "Biscuit" not in run(
        "chat", "--backend", "none", "-p", "What is my dog called?", "--session", "wednesday"
    )


@pytest.mark.slow
def test_twelve_facts_among_two_hundred_statements(run: Run) -> None:
    facts = DATA["facts"]
    for place, fact in enumerate(facts):
        run("remember", "-", "--session", f"day-{place}", stdin="\n".join(DATA["statements"][place::12]))
        run("remember", fact["text"], "--session", fact["session"])
    answers = {}
    # `none` is asked second: its guesses are journalled like any reply, and would be there to be recalled
    for backend in ("rag", "none"):
        replies = [
            ask(run, fact["question"], "--backend", backend, "--session", f"{backend}-{n}")
            for n, fact in enumerate(facts)
        ]
        answers[backend] = [
            is_right(answer["reply"], fact) for answer, fact in zip(replies, facts, strict=True)
        ]
        for answer, fact in zip(replies, facts, strict=True):
            print(backend, is_right(answer["reply"], fact), fact["question"], "->", answer["reply"])
    assert sum(answers["rag"]) >= 11
    assert sum(answers["none"]) <= 3


@pytest.mark.slow
def test_nothing_is_injected_for_what_memory_cannot_answer(run: Run) -> None:
    told = [*DATA["statements"], *(fact["text"] for fact in DATA["facts"])]
    run("remember", "-", stdin="\n".join(told))
    found = {
        one["text"]: json.loads(run("recall", one["text"], "--output", "json"))
        for one in DATA["unanswerable"]
    }
    empty = sum(not hits for hits in found.values())
    print(
        f"{empty} of {len(found)} got no recollection", {text: hits for text, hits in found.items() if hits}
    )
    assert empty >= 0.8 * len(found)
