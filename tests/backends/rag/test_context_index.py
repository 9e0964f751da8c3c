"""The full-text index of rag: what a turn is found by besides its own words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memagent.backends.rag.context_index import ContextIndex
from tests.backends.shared.indexed_turns import (
    add,
    check_forgetting,
    coverage,
    hits,
    opened_below,
    search,
)
from tests.backends.turns import bytes_below, make_turn

OpenIndex = Callable[..., ContextIndex]


@pytest.fixture
def open_index(tmp_path: Path) -> Iterator[OpenIndex]:
    """Open indexes by file name; what stays open is closed at the end."""
    yield from opened_below(tmp_path, ContextIndex)


@pytest.fixture
def index(open_index: OpenIndex) -> ContextIndex:
    return open_index()


def test_a_turn_is_found_by_its_month_and_its_speaker(index: ContextIndex) -> None:
    add(
        index,
        make_turn(1, "We went hiking.", speaker="Melanie"),
        make_turn(2, "We went swimming.", speaker="Caroline"),
    )
    assert hits(index, "What did Melanie do?") == {"1:0"}
    assert hits(index, "March 2026") == {"1:0", "2:0"}


def test_an_answer_is_found_by_the_words_of_its_question(index: ContextIndex) -> None:
    add(
        index,
        make_turn(1, "Which band did you hear at the concert?", "assistant"),
        make_turn(2, "Summer Sounds, they were great."),
        make_turn(3, "The weather was mild."),
    )
    ranked = list(search(index, "band concert", 10))
    assert ranked == ["1:0", "2:0"]


def test_a_monologue_is_not_found_by_what_was_said_before(index: ContextIndex) -> None:
    add(index, make_turn(1, "I heard a band at a concert."), make_turn(2, "The weather was mild."))
    assert hits(index, "band concert") == {"1:0"}


def test_speakers_of_one_role_answer_each_other(index: ContextIndex) -> None:
    add(index, make_turn(1, "Which band?", speaker="Ana"), make_turn(2, "Summer Sounds.", speaker="Ben"))
    assert hits(index, "band") == {"1:0", "2:0"}


def test_context_reaches_back_two_turns_and_not_into_other_sessions(index: ContextIndex) -> None:
    add(
        index,
        make_turn(1, "zebra"),
        make_turn(2, "yak", session="tuesday"),
        make_turn(3, "walrus", "assistant"),
        make_turn(4, "viper"),
        make_turn(5, "urchin", "assistant"),
    )
    assert hits(index, "zebra") == {"1:0", "3:0", "4:0"}
    assert hits(index, "yak") == {"2:0"}


def test_words_of_the_context_do_not_count_as_covered(index: ContextIndex) -> None:
    add(index, make_turn(1, "Which band did you hear?", "assistant"), make_turn(2, "Summer Sounds."))
    assert coverage(index, "band", ["2:0"]) == {"2:0": 0.0}


def test_forgetting_removes_the_word_from_the_context_of_the_turns_after_it(
    index: ContextIndex, tmp_path: Path
) -> None:
    add(
        index,
        make_turn(1, "Do you play the xylophone?", "assistant"),
        make_turn(2, "Every Sunday."),
        make_turn(3, "How nice.", "assistant"),
        make_turn(4, "Indeed."),
    )
    assert hits(index, "xylophone") == {"1:0", "2:0", "3:0"}
    index.forget([1])
    assert hits(index, "xylophone") == set()
    assert b"xylophon" not in bytes_below(tmp_path)
    assert hits(index, "Sunday") == {"2:0", "3:0", "4:0"}


@pytest.mark.parametrize("seed", range(6))
def test_the_state_after_forgetting_is_the_state_without_the_forgotten(
    open_index: OpenIndex, tmp_path: Path, seed: int
) -> None:
    check_forgetting(open_index, tmp_path, seed)
