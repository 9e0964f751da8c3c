"""People begin with a few facts: a small memory recalls them where they are asked for, and keeps silent otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from memagent.agent.memory.recall import merge_repeats
from memagent.backends.records import Recollection
from tests.conftest import OpenMemory

START = datetime(2026, 3, 1, tzinfo=UTC)

FACTS = ("I have two cats, Mia and Leo.", "My sister lives in Porto.")


@pytest.mark.parametrize("backend", ["rag", "bm25", "titans", "memo"])
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


@pytest.mark.parametrize("backend", ["rag", "bm25", "titans", "memo"])
def test_what_was_told_is_recalled(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    for fact in FACTS:
        memory.remember("monday", "user", fact)
    assert [item.text for item in memory.recall("Which two cats do I have?")][:1] == [FACTS[0]]
    assert [item.text for item in memory.recall("In which city does my sister live?")][:1] == [FACTS[1]]


@pytest.mark.parametrize("backend", ["in_memory", "rag", "bm25", "titans", "memo", "rag+bm25"])
def test_who_asks_for_all_that_is_known_gets_the_latest_facts(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    for text in (*FACTS, "My sister lives in Porto.", "What is my dog called?", "Thanks!"):
        memory.remember("monday", "user", text)
    memory.remember("monday", "assistant", "Porto lies at the mouth of the Douro.")
    recalled = memory.recall("What do you know about me?")
    assert [(item.text, item.seqs[0]) for item in recalled] == [(FACTS[1], 3), (FACTS[0], 1)]


def test_no_memory_knows_nothing_about_anybody(open_memory: OpenMemory) -> None:
    memory = open_memory(backend="none")
    memory.remember("monday", "user", FACTS[0])
    assert memory.recall("What do you know about me?") == []


@pytest.mark.parametrize("backend", ["in_memory", "rag", "bm25", "titans", "memo", "rag+bm25"])
def test_a_repeated_statement_leaves_room_for_another(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    for text in (*["I prefer dark roast coffee."] * 7, "I take my coffee with oat milk."):
        memory.remember("monday", "user", text)
    recalled = memory.recall("How do I like my coffee?")
    assert sorted(item.text for item in recalled) == [
        "I prefer dark roast coffee.",
        "I take my coffee with oat milk.",
    ]
    repeated = next(item for item in recalled if "dark" in item.text)
    assert repeated.seqs == (7, 6, 5, 4, 3, 2, 1)
    assert "Said 7 times." in repeated.why


def recollection(seq: int, text: str, speaker: str | None = None, role: str = "user") -> Recollection:
    return Recollection(
        text, 1 / seq, (seq,), "monday", role, START + timedelta(days=seq), f"Place {seq}.", speaker
    )


def test_repetitions_are_one_recollection_of_the_latest_that_the_user_said() -> None:
    items = [
        recollection(1, "I like  TEA!"),
        recollection(2, "It rains."),
        recollection(3, "I like tea"),
        recollection(4, "I like tea.", role="assistant"),
    ]
    tea, rain = merge_repeats(items)
    assert (tea.text, tea.seqs, tea.score, tea.why) == (
        "I like tea",
        (3, 4, 1),
        1.0,
        "Place 1. Said 3 times.",
    )
    assert rain == items[1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("I am allergic to peanuts.", "Ana"), ("I am allergic to peanuts.", "Ben")),
        (("I take 1.5 mg of it.", None), ("I take 15 mg of it.", None)),
        (("I program in C.", None), ("I program in C++.", None)),
        (("It is -5 outside.", None), ("It is 5 outside.", None)),
        (("👍", None), ("🎉", None)),
        (("!!", None), ("??", None)),
    ],
)
def test_what_two_people_say_and_what_differs_by_a_sign_stays_apart(
    first: tuple[str, str | None], second: tuple[str, str | None]
) -> None:
    items = [recollection(seq, *said) for seq, said in enumerate((first, second), start=1)]
    assert merge_repeats(items) == items


@pytest.mark.parametrize("backend", ["rag", "bm25", "titans", "memo"])
def test_a_statement_that_is_said_again_is_recalled(backend: str, open_memory: OpenMemory) -> None:
    memory = open_memory(backend=backend)
    for fact in FACTS:
        memory.remember("monday", "user", fact)
    assert [item.text for item in memory.recall(FACTS[1])] == [FACTS[1]]
