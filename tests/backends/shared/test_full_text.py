"""The word index: inert queries, stemming, context, coverage, and forgetting down to the bytes."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memagent.backends.errors import CheckpointError
from memagent.backends.records import Turn
from memagent.backends.shared.chunking import split
from memagent.backends.shared.full_text import LexicalIndex, terms

OpenIndex = Callable[..., LexicalIndex]


@pytest.fixture
def open_index(tmp_path: Path) -> Iterator[OpenIndex]:
    """Open indexes by file name; what stays open is closed at the end."""
    opened: list[LexicalIndex] = []

    def open_(name: str = "lexical.sqlite3") -> LexicalIndex:
        opened.append(LexicalIndex(tmp_path / name))
        return opened[-1]

    yield open_
    for index in opened:
        index.close()


@pytest.fixture
def index(open_index: OpenIndex) -> LexicalIndex:
    return open_index()


def said(
    seq: int, text: str, role: str = "user", session: str = "monday", speaker: str | None = None
) -> Turn:
    when = datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(minutes=seq)
    return Turn(seq, f"{seq:032x}", session, role, text, when, speaker)


def add(index: LexicalIndex, *turns: Turn) -> None:
    index.add([passage for turn in turns for passage in split(turn)])


def found(index: LexicalIndex, query: str) -> set[str]:
    return set(index.search(query, 100))


def indexed(file: Path) -> list[tuple[object, ...]]:
    """Everything the file says about each passage, and the words it is found by."""
    with sqlite3.connect(file) as database:
        rows = database.execute(
            "SELECT seq, part, id, session, role, speaker, created_at, text, own, context"
            " FROM passages JOIN words ON words.rowid = passages.rowid ORDER BY seq, part"
        ).fetchall()
    database.close()
    return rows


def bytes_below(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# queries


@pytest.mark.parametrize(
    "query",
    [
        '" OR *',
        '"',
        "NEAR(",
        "NEAR(dog Biscuit, 2)",
        "own : dog",
        "context:dog",
        "dog AND NOT Biscuit",
        "dog*",
        "^dog",
        "dog + Biscuit",
        "'; DROP TABLE passages; --",
        "{own context} : dog",
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
def test_no_query_is_syntax(index: LexicalIndex, query: str) -> None:
    add(index, said(1, "My dog is called Biscuit."), said(2, "I live in Porto."))
    assert found(index, query) <= {"1:0"}
    assert all(0.0 <= share <= 1.0 for share in index.coverage(query, ["1:0", "2:0"]).values())
    assert index.count() == (2, 2)


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_query(index: LexicalIndex, query: str) -> None:
    assert index.search(query, 5) == {}


def test_operators_are_searched_for_as_words(index: LexicalIndex) -> None:
    add(index, said(1, "Near the harbour."), said(2, "The dog is far away."))
    assert found(index, "NEAR(dog, 2)") == {"1:0", "2:0"}
    assert found(index, "dog NOT harbour") == {"1:0", "2:0"}


def test_a_query_of_a_thousand_words_is_answered_by_its_first_words(index: LexicalIndex) -> None:
    add(index, said(1, "word3 stands near the beginning"), said(2, "word900 stands far behind"))
    query = " ".join(f"word{number}" for number in range(1000))
    assert found(index, query) == {"1:0"}
    assert len(terms(query)) == 64


def test_words_of_other_scripts_and_pictures_are_stored_and_found(index: LexicalIndex) -> None:
    add(
        index,
        said(1, "Моя собака Бублик 😀"),
        said(2, "東京 に 住んでいます"),
        said(3, "J'habite à Orléans."),
    )
    assert found(index, "собака") == {"1:0"}
    assert found(index, "БУБЛИК") == {"1:0"}
    assert found(index, "東京") == {"2:0"}
    assert found(index, "orleans") == {"3:0"}
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
def test_a_word_finds_itself_whatever_its_letters(index: LexicalIndex, word: str) -> None:
    add(index, said(1, f"first {word} last"))
    assert found(index, word) == {"1:0"}


def test_stop_words_are_left_out_unless_there_is_nothing_else() -> None:
    assert terms("What is my dog's name? Dog!") == ["dog", "name"]
    assert terms("who are you") == ["who", "are", "you"]
    assert terms("?!") == []


@pytest.mark.parametrize("asked", ["running", "runs", "RUN", "Runner's run"])
def test_words_are_found_by_their_stem(index: LexicalIndex, asked: str) -> None:
    add(index, said(1, "I run along the river."), said(2, "I swim in the lake."))
    assert found(index, asked) == {"1:0"}


def test_more_and_rarer_words_rank_higher_and_the_limit_holds(index: LexicalIndex) -> None:
    add(
        index,
        said(1, "We ate soup."),
        said(2, "We ate soup with saffron."),
        said(3, "We ate bread."),
        said(4, "We ate soup again."),
    )
    assert next(iter(index.search("soup with saffron", 10))) == "2:0"
    assert len(index.search("ate", 3)) == 3
    scores = list(index.search("ate soup saffron", 10).values())
    assert scores == sorted(scores, reverse=True)


def test_a_turn_is_found_by_its_month_and_its_speaker(index: LexicalIndex) -> None:
    add(
        index, said(1, "We went hiking.", speaker="Melanie"), said(2, "We went swimming.", speaker="Caroline")
    )
    assert found(index, "What did Melanie do?") == {"1:0"}
    assert found(index, "March 2026") == {"1:0", "2:0"}


# context


def test_an_answer_is_found_by_the_words_of_its_question(index: LexicalIndex) -> None:
    add(
        index,
        said(1, "Which band did you hear at the concert?", "assistant"),
        said(2, "Summer Sounds, they were great."),
        said(3, "The weather was mild."),
    )
    ranked = list(index.search("band concert", 10))
    assert ranked == ["1:0", "2:0"]


def test_a_monologue_is_not_found_by_what_was_said_before(index: LexicalIndex) -> None:
    add(index, said(1, "I heard a band at a concert."), said(2, "The weather was mild."))
    assert found(index, "band concert") == {"1:0"}


def test_speakers_of_one_role_answer_each_other(index: LexicalIndex) -> None:
    add(index, said(1, "Which band?", speaker="Ana"), said(2, "Summer Sounds.", speaker="Ben"))
    assert found(index, "band") == {"1:0", "2:0"}


def test_context_reaches_back_two_turns_and_not_into_other_sessions(index: LexicalIndex) -> None:
    add(
        index,
        said(1, "zebra"),
        said(2, "yak", session="tuesday"),
        said(3, "walrus", "assistant"),
        said(4, "viper"),
        said(5, "urchin", "assistant"),
    )
    assert found(index, "zebra") == {"1:0", "3:0", "4:0"}
    assert found(index, "yak") == {"2:0"}


# coverage


def test_coverage_is_the_share_of_the_questions_words(index: LexicalIndex) -> None:
    add(index, said(1, "My dog is called Biscuit."), said(2, "My cat sleeps."), said(3, "Nothing here."))
    share = index.coverage("What is my dog called?", ["1:0", "2:0", "3:0"])
    assert share == {"1:0": pytest.approx(1.0), "2:0": 0.0, "3:0": 0.0}


def test_a_rare_word_covers_more_than_a_common_one(index: LexicalIndex) -> None:
    add(index, *(said(seq, "soup again") for seq in range(1, 10)), said(10, "saffron"))
    share = index.coverage("soup or saffron", ["1:0", "10:0"])
    assert 0 < share["1:0"] < 0.5 < share["10:0"] < 1
    assert share["1:0"] + share["10:0"] == pytest.approx(1.0)


def test_words_of_the_context_do_not_count_as_covered(index: LexicalIndex) -> None:
    add(index, said(1, "Which band did you hear?", "assistant"), said(2, "Summer Sounds."))
    assert index.coverage("band", ["2:0"]) == {"2:0": 0.0}


@pytest.mark.parametrize("query", ["", "what is it?", "?"])
def test_a_query_without_content_covers_nothing(index: LexicalIndex, query: str) -> None:
    add(index, said(1, "What is it?"))
    assert index.coverage(query, ["1:0"]) == {"1:0": 0.0}


# storing


def test_turns_come_back_as_they_were(index: LexicalIndex) -> None:
    turn = said(3, "We went hiking.", "assistant", "a session", "Melanie")
    add(index, turn)
    assert index.fetch(["3:0", "3:1", "9:0"]) == {"3:0": split(turn)[0]}
    assert index.known([1, 2, 3]) == {3}


def test_keys_are_in_order_of_turn_and_part(index: LexicalIndex) -> None:
    add(index, said(2, "b"), said(10, "word " * 400), said(11, "c"))
    assert index.keys() == ["2:0", "10:0", "10:1", "10:2", "11:0"]
    assert index.keys([11, 10, 99]) == ["10:0", "10:1", "10:2", "11:0"]
    assert index.count() == (3, 5)


def test_a_file_is_read_again_and_copied_whole(open_index: OpenIndex, tmp_path: Path) -> None:
    first = open_index()
    add(first, said(1, "My dog is called Biscuit."))
    first.copy_to(tmp_path / "copy.sqlite3")
    add(first, said(2, "My dog is a beagle."))
    first.close()
    assert found(open_index(), "dog") == {"1:0", "2:0"}
    assert found(open_index("copy.sqlite3"), "dog") == {"1:0"}


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be one" * 20, b"SQLite format 3\0" * 64]
)
def test_a_damaged_file_is_refused(open_index: OpenIndex, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.sqlite3").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.sqlite3 cannot be read"):
        open_index("bad.sqlite3")


# forgetting


def test_forgetting_removes_the_word_from_every_byte(index: LexicalIndex, tmp_path: Path) -> None:
    rest = [said(seq, f"Nothing worth telling happened on day {seq}.") for seq in range(2, 40)]
    add(index, said(1, "I am a professional xylophonist."), *rest)
    assert b"xylophon" in bytes_below(tmp_path)
    index.forget([1])
    assert b"xylophon" not in bytes_below(tmp_path)
    assert found(index, "xylophonist") == set()
    assert index.count() == (38, 38)


def test_forgetting_removes_the_word_from_the_context_of_the_turns_after_it(
    index: LexicalIndex, tmp_path: Path
) -> None:
    add(
        index,
        said(1, "Do you play the xylophone?", "assistant"),
        said(2, "Every Sunday."),
        said(3, "How nice.", "assistant"),
        said(4, "Indeed."),
    )
    assert found(index, "xylophone") == {"1:0", "2:0", "3:0"}
    index.forget([1])
    assert found(index, "xylophone") == set()
    assert b"xylophon" not in bytes_below(tmp_path)
    assert found(index, "Sunday") == {"2:0", "3:0", "4:0"}


def test_forgetting_a_long_turn_removes_all_its_passages(index: LexicalIndex, tmp_path: Path) -> None:
    add(index, said(1, "filler words only. " * 200 + "xylophone"), said(2, "Fine.", "assistant"))
    assert index.count()[1] > 4
    index.forget([1])
    assert index.keys() == ["2:0"]
    assert b"filler" not in bytes_below(tmp_path)


def test_forgetting_gives_the_room_back(index: LexicalIndex, tmp_path: Path) -> None:
    add(index, *(said(seq, f"number{seq} " * 80) for seq in range(1, 200)))
    before = (tmp_path / "lexical.sqlite3").stat().st_size
    index.forget(range(2, 200))
    assert (tmp_path / "lexical.sqlite3").stat().st_size < before / 3


def test_forgetting_what_is_not_there_changes_nothing(index: LexicalIndex, tmp_path: Path) -> None:
    add(index, said(1, "My dog is called Biscuit."))
    before = indexed(tmp_path / "lexical.sqlite3")
    index.forget([2, 99])
    index.forget([])
    assert indexed(tmp_path / "lexical.sqlite3") == before


@pytest.mark.parametrize("seed", range(6))
def test_the_state_after_forgetting_is_the_state_without_the_forgotten(
    open_index: OpenIndex, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    turns = [_random_turn(rng, seq) for seq in range(1, 60)]
    gone = set(rng.sample(range(1, 60), 25))
    index, rebuilt = open_index("index.sqlite3"), open_index("rebuilt.sqlite3")
    add(index, *turns)
    for some in _in_groups(rng, sorted(gone)):
        index.forget(some)
    add(rebuilt, *(turn for turn in turns if turn.seq not in gone))
    assert indexed(tmp_path / "index.sqlite3") == indexed(tmp_path / "rebuilt.sqlite3")
    for word in ("dog", "river", "soup", "lamp"):
        assert index.search(word, 100) == pytest.approx(rebuilt.search(word, 100))


def _random_turn(rng: random.Random, seq: int) -> Turn:
    words = rng.choices(["dog", "river", "soup", "lamp", "the", f"unique{seq}"], k=rng.choice([3, 8, 400]))
    return said(
        seq,
        " ".join(words),
        rng.choice(["user", "assistant"]),
        rng.choice(["monday", "tuesday", "wednesday"]),
        rng.choice([None, None, "Ana"]),
    )


def _in_groups(rng: random.Random, seqs: Sequence[int]) -> list[list[int]]:
    shuffled = rng.sample(seqs, len(seqs))
    return [shuffled[:10], shuffled[10:11], shuffled[11:]]
