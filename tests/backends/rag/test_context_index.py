"""The full-text index of rag: what a turn is found by besides its own words."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from memagent.backends.rag.context_index import ContextIndex
from memagent.backends.records import Turn
from tests.backends.shared.indexed_turns import add, bytes_below, coverage, hits, search, stored_rows, turn

OpenIndex = Callable[..., ContextIndex]


@pytest.fixture
def open_index(tmp_path: Path) -> Iterator[OpenIndex]:
    """Open indexes by file name; what stays open is closed at the end."""
    opened: list[ContextIndex] = []

    def open_(name: str = "index.sqlite3") -> ContextIndex:
        opened.append(ContextIndex(tmp_path / name))
        return opened[-1]

    yield open_
    for index in opened:
        index.close()


@pytest.fixture
def index(open_index: OpenIndex) -> ContextIndex:
    return open_index()


def test_a_turn_is_found_by_its_month_and_its_speaker(index: ContextIndex) -> None:
    add(
        index, turn(1, "We went hiking.", speaker="Melanie"), turn(2, "We went swimming.", speaker="Caroline")
    )
    assert hits(index, "What did Melanie do?") == {"1:0"}
    assert hits(index, "March 2026") == {"1:0", "2:0"}


def test_an_answer_is_found_by_the_words_of_its_question(index: ContextIndex) -> None:
    add(
        index,
        turn(1, "Which band did you hear at the concert?", "assistant"),
        turn(2, "Summer Sounds, they were great."),
        turn(3, "The weather was mild."),
    )
    ranked = list(search(index, "band concert", 10))
    assert ranked == ["1:0", "2:0"]


def test_a_monologue_is_not_found_by_what_was_said_before(index: ContextIndex) -> None:
    add(index, turn(1, "I heard a band at a concert."), turn(2, "The weather was mild."))
    assert hits(index, "band concert") == {"1:0"}


def test_speakers_of_one_role_answer_each_other(index: ContextIndex) -> None:
    add(index, turn(1, "Which band?", speaker="Ana"), turn(2, "Summer Sounds.", speaker="Ben"))
    assert hits(index, "band") == {"1:0", "2:0"}


def test_context_reaches_back_two_turns_and_not_into_other_sessions(index: ContextIndex) -> None:
    add(
        index,
        turn(1, "zebra"),
        turn(2, "yak", session="tuesday"),
        turn(3, "walrus", "assistant"),
        turn(4, "viper"),
        turn(5, "urchin", "assistant"),
    )
    assert hits(index, "zebra") == {"1:0", "3:0", "4:0"}
    assert hits(index, "yak") == {"2:0"}


def test_words_of_the_context_do_not_count_as_covered(index: ContextIndex) -> None:
    add(index, turn(1, "Which band did you hear?", "assistant"), turn(2, "Summer Sounds."))
    assert coverage(index, "band", ["2:0"]) == {"2:0": 0.0}


def test_forgetting_removes_the_word_from_the_context_of_the_turns_after_it(
    index: ContextIndex, tmp_path: Path
) -> None:
    add(
        index,
        turn(1, "Do you play the xylophone?", "assistant"),
        turn(2, "Every Sunday."),
        turn(3, "How nice.", "assistant"),
        turn(4, "Indeed."),
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
    rng = random.Random(seed)
    turns = [_random_turn(rng, seq) for seq in range(1, 60)]
    forgotten = set(rng.sample(range(1, 60), 25))
    index, rebuilt = open_index("index.sqlite3"), open_index("rebuilt.sqlite3")
    add(index, *turns)
    for group in _in_groups(rng, sorted(forgotten)):
        index.forget(group)
    add(rebuilt, *(kept for kept in turns if kept.seq not in forgotten))
    assert stored_rows(tmp_path / "index.sqlite3") == stored_rows(tmp_path / "rebuilt.sqlite3")
    for word in ("dog", "river", "soup", "lamp"):
        assert search(index, word) == pytest.approx(search(rebuilt, word))


def _random_turn(rng: random.Random, seq: int) -> Turn:
    words = rng.choices(["dog", "river", "soup", "lamp", "the", f"unique{seq}"], k=rng.choice([3, 8, 400]))
    return turn(
        seq,
        " ".join(words),
        rng.choice(["user", "assistant"]),
        rng.choice(["monday", "tuesday", "wednesday"]),
        rng.choice([None, None, "Ana"]),
    )


def _in_groups(rng: random.Random, seqs: Sequence[int]) -> list[list[int]]:
    shuffled = rng.sample(seqs, len(seqs))
    return [shuffled[:10], shuffled[10:11], shuffled[11:]]
