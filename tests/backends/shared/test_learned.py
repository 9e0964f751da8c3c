"""What is learned over the multilingual encoder: need of memory, overviews, supersession. Examples are not those it was fitted on."""

from __future__ import annotations

import pytest

from memagent.backends.shared.memory_need import memory_need
from memagent.backends.shared.overview import asks_for_overview
from memagent.backends.shared.supersession import superseded_by


@pytest.mark.parametrize(
    "message",
    [
        "Where did I leave my keys?",
        "What is the name of my accountant?",
        "Wann hat meine Tochter Geburtstag?",
        "¿Dónde trabaja mi hermano?",
        "Где работает моя мама?",
        "我的医生叫什么名字？",
        "私の娘の名前は何ですか？",
        "When did Caroline go to the museum?",
    ],
)
def test_a_question_about_somebodys_life_needs_memory(message: str) -> None:
    assert memory_need(message) > 0


@pytest.mark.parametrize(
    "message",
    [
        "Write a limerick about a baker.",
        "Fix this SQL query: SELECT * FORM users;",
        "Schreib mir ein Gedicht über den Herbst.",
        "Escribe un poema sobre el otoño.",
        "Напиши стихотворение об осени.",
        "写一首关于秋天的诗。",
        "秋についての詩を書いて。",
        "Good evening!",
        "",
        "\ud800",
    ],
)
def test_a_task_or_a_greeting_needs_none(message: str) -> None:
    assert memory_need(message) < 0


@pytest.mark.parametrize(
    ("message", "overview"),
    [
        ("What do you remember about me?", True),
        ("What did I tell you about myself?", True),
        ("Was hast du dir über mich gemerkt?", True),
        ("私のことで何を覚えている？", True),
        ("What do you know about my dog?", False),
        ("What do you know about Rome?", False),
        ("Who are you?", False),
        ("", False),
    ],
)
def test_who_asks_for_all_that_is_known_is_told_from_who_asks_for_one_thing(
    message: str, overview: bool
) -> None:
    assert asks_for_overview(message) is overview


def test_each_change_supersedes_what_held_before() -> None:
    lived, moved, moved_again = (
        "I live in Lisbon.",
        "I moved from Lisbon to Porto.",
        "I moved from Porto to Braga.",
    )
    assert superseded_by([lived, moved, moved_again]) == [1, 2, None]


@pytest.mark.parametrize(
    "statements",
    [
        ["I live in Lisbon.", "My sister left her job."],
        ["I moved to Porto.", "I live in Porto."],
        ["I moved to Porto."],
        ["I sold my kayak.", "I sold my kayak."],
        ["The lamp is broken.", "My neighbour repaired the fence."],
        [],
    ],
)
def test_other_statements_hold_side_by_side(statements: list[str]) -> None:
    assert superseded_by(statements) == [None] * len(statements)
