"""People begin with a few facts: a small memory recalls them where they are asked for, and keeps silent otherwise."""

from __future__ import annotations

import pytest

from tests.conftest import OpenMemory

FACTS = ("I have two cats, Mia and Leo.", "My sister lives in Porto.")


@pytest.mark.parametrize("backend", ["rag", "bm25", "titans"])
@pytest.mark.parametrize(
    "message",
    [
        "Write a haiku about the sea.",
        "What is 17 times 23?",
        "Thanks, that helps!",
        "Schreibe mir ein Gedicht über den Herbst.",
        "Cuéntame un chiste.",
    ],
)
def test_a_message_that_needs_no_memory_gets_none(
    backend: str, message: str, open_memory: OpenMemory
) -> None:
    memory = open_memory(backend=backend)
    for fact in FACTS:
        memory.remember("monday", "user", fact)
    assert memory.recall(message) == []


@pytest.mark.parametrize("backend", ["rag", "bm25", "titans"])
def test_what_was_told_is_recalled(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    for fact in FACTS:
        memory.remember("monday", "user", fact)
    assert [item.text for item in memory.recall("Which two cats do I have?")][:1] == [FACTS[0]]
    assert [item.text for item in memory.recall("In which city does my sister live?")][:1] == [FACTS[1]]
