"""The full-text index: inert queries, stemming, coverage, and forgetting down to the bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memagent.backends.errors import CheckpointError
from memagent.backends.shared.chunking import split_turn
from memagent.backends.shared.full_text import FullTextIndex, IndexCounts
from memagent.backends.shared.words import content_words, query_words
from tests.backends.shared.indexed_turns import (
    add,
    check_forgetting,
    coverage,
    hits,
    opened_below,
    search,
    stored_rows,
)
from tests.backends.turns import bytes_below, make_turn

OpenIndex = Callable[..., FullTextIndex]


@pytest.fixture
def open_index(tmp_path: Path) -> Iterator[OpenIndex]:
    """Open indexes by file name; what stays open is closed at the end."""
    yield from opened_below(tmp_path, FullTextIndex)


@pytest.fixture
def index(open_index: OpenIndex) -> FullTextIndex:
    return open_index()


# queries


@pytest.mark.parametrize(
    "query",
    [
        '" OR *',
        '"',
        "NEAR(",
        "NEAR(dog Biscuit, 2)",
        "text : dog",
        "text:dog",
        "dog AND NOT Biscuit",
        "dog*",
        "^dog",
        "dog + Biscuit",
        "'; DROP TABLE chunks; --",
        "{text} : dog",
        "-dog",
        "dog\0Biscuit",
        "\ud83d",
        "%_",
        "__",
        "😀",
        "東京の犬",
        "ἄλφα हिन्दी ﷺ",
        "",
        "   ",
    ],
)
def test_no_query_is_syntax(index: FullTextIndex, query: str) -> None:
    add(index, make_turn(1, "My dog is called Biscuit."), make_turn(2, "I live in Porto."))
    assert hits(index, query) <= {"1:0"}
    assert all(0.0 <= share <= 1.0 for share in coverage(index, query, ["1:0", "2:0"]).values())
    assert index.count() == IndexCounts(2, 2, 2)


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_query(index: FullTextIndex, query: str) -> None:
    assert search(index, query) == {}


def test_operators_are_searched_for_as_words(index: FullTextIndex) -> None:
    add(index, make_turn(1, "Near the harbour."), make_turn(2, "The dog is far away."))
    assert hits(index, "NEAR(dog, 2)") == {"1:0", "2:0"}
    assert hits(index, "dog NOT harbour") == {"1:0", "2:0"}


def test_a_query_of_a_thousand_words_is_answered_by_its_first_words(index: FullTextIndex) -> None:
    add(index, make_turn(1, "word3 stands near the beginning"), make_turn(2, "word900 stands far behind"))
    query = " ".join(f"word{number}" for number in range(1000))
    assert hits(index, query) == {"1:0"}


def test_words_of_other_scripts_and_pictures_are_stored_and_hits(index: FullTextIndex) -> None:
    add(
        index,
        make_turn(1, "Моя собака Бублик 😀"),
        make_turn(2, "東京 に 住んでいます"),
        make_turn(3, "J'habite à Orléans."),
    )
    assert hits(index, "собака") == {"1:0"}
    assert hits(index, "БУБЛИК") == {"1:0"}
    assert hits(index, "東京") == {"2:0"}
    assert hits(index, "orleans") == {"3:0"}
    assert index.fetch(["1:0"])["1:0"].text == "Моя собака Бублик 😀"


@pytest.mark.parametrize(
    "word",
    [
        "Hauptstraße",
        "ΟΔΟΣ",
        "οδός",
        "ЁЖ",
        "IŞIK",
        "हिन्दी",
        "ไทย",
        "한국어",
        "ﬁne",
        pytest.param("İstanbul"),
        pytest.param("e\u0301te\u0301", id="decomposed accents"),
    ],
)
def test_a_word_finds_itself_whatever_its_letters(index: FullTextIndex, word: str) -> None:
    add(index, make_turn(1, f"first {word} last"))
    assert hits(index, word) == {"1:0"}


def test_content_words_are_the_distinct_words_that_are_not_stop_words() -> None:
    assert content_words("What is my dog's name? Dog!") == ["dog", "name"]
    assert content_words("who are you") == []
    assert query_words("Who are you, who?") == ["who", "are", "you"]
    assert query_words("?!") == []


@pytest.mark.parametrize("asked", ["running", "runs", "RUN", "Runner's run"])
def test_words_are_found_by_their_stem(index: FullTextIndex, asked: str) -> None:
    add(index, make_turn(1, "I run along the river."), make_turn(2, "I swim in the lake."))
    assert hits(index, asked) == {"1:0"}


def test_more_and_rarer_words_rank_higher_and_the_limit_holds(index: FullTextIndex) -> None:
    add(
        index,
        make_turn(1, "We ate soup."),
        make_turn(2, "We ate soup with saffron."),
        make_turn(3, "We ate bread."),
        make_turn(4, "We ate soup again."),
    )
    assert next(iter(search(index, "soup with saffron", 10))) == "2:0"
    assert len(search(index, "ate", 3)) == 3
    scores = list(search(index, "ate soup saffron", 10).values())
    assert scores == sorted(scores, reverse=True)


# coverage


def test_coverage_is_the_share_of_the_questions_words(index: FullTextIndex) -> None:
    add(
        index,
        make_turn(1, "My dog is called Biscuit."),
        make_turn(2, "My cat sleeps."),
        make_turn(3, "Nothing here."),
    )
    share = coverage(index, "What is my dog called?", ["1:0", "2:0", "3:0"])
    assert share == {"1:0": pytest.approx(1.0), "2:0": 0.0, "3:0": 0.0}


def test_a_rare_word_covers_more_than_a_common_one(index: FullTextIndex) -> None:
    add(index, *(make_turn(seq, "soup again") for seq in range(1, 10)), make_turn(10, "saffron"))
    share = coverage(index, "soup or saffron", ["1:0", "10:0"])
    assert 0 < share["1:0"] < 0.5 < share["10:0"] < 1
    assert share["1:0"] + share["10:0"] == pytest.approx(1.0)


@pytest.mark.parametrize("query", ["", "what is it?", "?"])
def test_a_query_without_content_covers_nothing(index: FullTextIndex, query: str) -> None:
    add(index, make_turn(1, "What is it?"))
    assert coverage(index, query, ["1:0"]) == {"1:0": 0.0}


# storing


def test_turns_come_back_as_they_were(index: FullTextIndex) -> None:
    hike = make_turn(3, "We went hiking.", "assistant", "a session", "Melanie")
    add(index, hike)
    assert index.fetch(["3:0", "3:1", "9:0"]) == {"3:0": split_turn(hike)[0]}
    assert index.known([1, 2, 3]) == {3}


def test_keys_are_in_order_of_turn_and_part(index: FullTextIndex) -> None:
    add(index, make_turn(2, "b"), make_turn(10, "word " * 400), make_turn(11, "c"))
    assert index.keys() == ["2:0", "10:0", "10:1", "10:2", "11:0"]
    assert index.keys([11, 10, 99]) == ["10:0", "10:1", "10:2", "11:0"]
    assert index.count() == IndexCounts(3, 5, 5)


def test_a_file_is_read_again_and_copied_whole(open_index: OpenIndex, tmp_path: Path) -> None:
    first = open_index()
    add(first, make_turn(1, "My dog is called Biscuit."))
    first.copy_to(tmp_path / "copy.sqlite3")
    add(first, make_turn(2, "My dog is a beagle."))
    first.close()
    assert hits(open_index(), "dog") == {"1:0", "2:0"}
    assert hits(open_index("copy.sqlite3"), "dog") == {"1:0"}


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be one" * 20, b"SQLite format 3\0" * 64]
)
def test_a_damaged_file_is_refused(open_index: OpenIndex, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.sqlite3").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.sqlite3 cannot be read"):
        open_index("bad.sqlite3")


# forgetting


def test_forgetting_removes_the_word_from_every_byte(index: FullTextIndex, tmp_path: Path) -> None:
    rest = [make_turn(seq, f"Nothing worth telling happened on day {seq}.") for seq in range(2, 40)]
    add(index, make_turn(1, "I am a professional xylophonist."), *rest)
    assert b"xylophon" in bytes_below(tmp_path)
    index.forget([1])
    assert b"xylophon" not in bytes_below(tmp_path)
    assert hits(index, "xylophonist") == set()
    assert index.count() == IndexCounts(38, 38, 38)


def test_forgetting_a_long_turn_removes_all_its_chunks(index: FullTextIndex, tmp_path: Path) -> None:
    add(index, make_turn(1, "filler words only. " * 200 + "xylophone"), make_turn(2, "Fine.", "assistant"))
    assert index.count().chunks > 4
    index.forget([1])
    assert index.keys() == ["2:0"]
    assert b"filler" not in bytes_below(tmp_path)


def test_forgetting_gives_the_room_back(index: FullTextIndex, tmp_path: Path) -> None:
    add(index, *(make_turn(seq, f"number{seq} " * 80) for seq in range(1, 200)))
    before = (tmp_path / "index.sqlite3").stat().st_size
    index.forget(range(2, 200))
    assert (tmp_path / "index.sqlite3").stat().st_size < before / 3


def test_forgetting_what_is_not_there_changes_nothing(index: FullTextIndex, tmp_path: Path) -> None:
    add(index, make_turn(1, "My dog is called Biscuit."))
    before = stored_rows(tmp_path / "index.sqlite3")
    index.forget([2, 99])
    index.forget([])
    assert stored_rows(tmp_path / "index.sqlite3") == before


@pytest.mark.parametrize("seed", range(6))
def test_the_state_after_forgetting_is_the_state_without_the_forgotten(
    open_index: OpenIndex, tmp_path: Path, seed: int
) -> None:
    check_forgetting(open_index, tmp_path, seed)
