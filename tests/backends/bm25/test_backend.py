"""The BM25 backend: the ranking of plain SQLite full-text search, abstention, forgetting, stored states."""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from memagent.agent.models.embedding import HashingEmbedder
from memagent.backends import registry
from memagent.backends.bm25 import Bm25, Bm25Config
from memagent.backends.errors import CheckpointError, SettingError, StorageError
from memagent.backends.protocol import Resources
from tests.backends.turns import FACTS, bytes_below, make_turn

MakeBm25 = Callable[..., Bm25]


@pytest.fixture
def make_bm25(tmp_path: Path) -> Iterator[MakeBm25]:
    """Make backends, or load them; all are closed at the end."""
    opened: list[Bm25] = []

    def make(*texts: str, state: Path | None = None, **settings: object) -> Bm25:
        workspace = tmp_path / f"workspace{len(opened)}"
        workspace.mkdir()
        config = Bm25Config(**settings)  # type: ignore[arg-type]
        resources = Resources(workspace, HashingEmbedder)
        backend = Bm25.load(state, config, resources) if state else Bm25(config, resources)
        opened.append(backend)
        backend.remember([make_turn(seq, text) for seq, text in enumerate(texts, start=1)])
        return backend

    yield make
    for backend in opened:
        backend.close()


@pytest.fixture
def bm25(make_bm25: MakeBm25) -> Bm25:
    return make_bm25(*FACTS)


def seqs(backend: Bm25, query: str, limit: int = 5) -> list[int]:
    return [seq for hit in backend.recall(query, limit=limit) for seq in hit.seqs]


def state_of(backend: Bm25, folder: Path) -> Path:
    folder.mkdir()
    backend.save(folder)
    return folder


def plain_ranking(texts: list[str], query: str, limit: int) -> list[int]:
    """Return the seqs that SQLite's full-text search alone ranks, best first: the specification."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE VIRTUAL TABLE turns USING fts5(text, tokenize = 'porter unicode61')")
        database.executemany("INSERT INTO turns(rowid, text) VALUES (?, ?)", enumerate(texts, start=1))
        words = dict.fromkeys(re.findall(r"\w+", query.lower()))
        rows = database.execute(
            "SELECT rowid FROM turns WHERE turns MATCH ? ORDER BY bm25(turns), rowid LIMIT ?",
            (" OR ".join(f'"{word}"' for word in words), limit),
        )
        return [seq for (seq,) in rows]


# ranking


def test_needs_no_model() -> None:
    assert registry.get("bm25") is Bm25
    assert Bm25.needs == frozenset()
    assert registry.capabilities(Bm25).exact_forget


@pytest.mark.parametrize("seed", range(5))
def test_turns_rank_as_plain_full_text_search_ranks_them(make_bm25: MakeBm25, seed: int) -> None:
    draw = random.Random(seed)
    words = ["the", "dog", "dogs", "river", "soup", "of", "lamp", "Köln", "my"]
    stored = [" ".join(draw.choices(words, k=draw.choice([1, 3, 8, 300]))) for _ in range(150)]
    backend = make_bm25(*stored, abstain=False)
    for query in ("the dog", "my soup of the river?", "lamp", "koln lamps", "of"):
        for limit in (1, 5, 50):
            ranked = seqs(backend, query, limit)
            assert ranked == plain_ranking(stored, query, limit)


def test_scores_fall_and_the_limit_holds(make_bm25: MakeBm25) -> None:
    backend = make_bm25(*FACTS, "My dog chased another dog.", abstain=False)
    scores = [hit.score for hit in backend.recall("my dog", limit=3)]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_a_hit_is_the_whole_turn(make_bm25: MakeBm25) -> None:
    backend = make_bm25("I live in Porto.", "filler " * 2000 + "xylophone")
    backend.config = Bm25Config(abstain=False)
    (hit,) = backend.recall("xylophone")
    assert (hit.seqs, hit.text) == ((2,), "")  # no text: the journal's text of the turn
    assert hit.why.endswith("100% of the question's words.")


@pytest.mark.parametrize("query", ["", "  ", "?!", '"', "()*^", "zyxgrabl", "\0"])
def test_a_query_that_shares_no_word_recalls_nothing(make_bm25: MakeBm25, query: str) -> None:
    assert make_bm25(*FACTS, abstain=False).recall(query) == []


@pytest.mark.parametrize("query", ['dog" OR text:"', "dog NOT dog", "NEAR(dog)", "dog*", "-dog", "AND dog's"])
def test_a_query_is_words_and_no_syntax(make_bm25: MakeBm25, query: str) -> None:
    assert 1 in seqs(make_bm25(*FACTS, abstain=False), query)


# abstention


def test_a_turn_that_holds_the_question_s_content_words_is_recalled(bm25: Bm25) -> None:
    assert seqs(bm25, "What is my dog called?") == [1]


def test_stop_words_alone_are_no_reason_to_recall(bm25: Bm25, make_bm25: MakeBm25) -> None:
    assert seqs(bm25, "Where is my passport?") == []
    assert seqs(make_bm25(*FACTS, abstain=False), "Where is my passport?") != []


def test_a_lower_threshold_recalls_more(make_bm25: MakeBm25) -> None:
    query = "Would the river be a place for a picnic?"
    assert seqs(make_bm25(*FACTS, threshold=0.9), query) == []
    assert seqs(make_bm25(*FACTS, threshold=0.001), query) == [2]


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "much"])
def test_a_threshold_outside_0_to_1_is_refused(value: str) -> None:
    with pytest.raises(SettingError, match="threshold"):
        registry.configure(Bm25, {"threshold": value})


# remembering and forgetting


def test_a_turn_handed_over_twice_is_held_once(bm25: Bm25) -> None:
    bm25.remember([make_turn(seq, text) for seq, text in enumerate(FACTS, start=1)])
    bm25.remember([make_turn(2, "another text under a known number")])
    assert bm25.stats().items == 5
    assert seqs(bm25, "Where do I live, in Porto?") == [2]


def test_what_is_forgotten_is_in_no_recollection_and_no_file(make_bm25: MakeBm25, tmp_path: Path) -> None:
    backend = make_bm25(*FACTS, "I play the xylophone in a band.", abstain=False)
    assert b"xylophon" in bytes_below(tmp_path)
    assert backend.forget([6, 99]) is True
    assert seqs(backend, "xylophone band") == []
    assert b"xylophon" not in bytes_below(tmp_path)
    assert backend.stats().items == 5


def test_forgetting_and_consolidating_leave_the_other_turns_as_they_were(make_bm25: MakeBm25) -> None:
    backend, without = make_bm25(*FACTS, abstain=False), make_bm25(abstain=False)
    without.remember([make_turn(seq, text) for seq, text in enumerate(FACTS, start=1) if seq != 2])
    backend.forget([2])
    report = backend.consolidate()
    assert (report.before, report.after) == (4, 4)
    query = "my dog, my sister and two bicycles"
    assert backend.recall(query) == without.recall(query)


# stored states


def test_a_loaded_state_recalls_the_same(bm25: Bm25, make_bm25: MakeBm25, tmp_path: Path) -> None:
    loaded = make_bm25(state=state_of(bm25, tmp_path / "state"))
    for query in ("What is my dog called?", "Who is allergic to peanuts?", "Rome"):
        assert loaded.recall(query) == bm25.recall(query)


def test_later_changes_do_not_reach_a_stored_state(bm25: Bm25, make_bm25: MakeBm25, tmp_path: Path) -> None:
    folder = state_of(bm25, tmp_path / "state")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    bm25.forget([1])
    loaded = make_bm25(state=folder)
    loaded.remember([make_turn(6, "The cat ate a whole mackerel.")])
    assert seqs(loaded, "What is my dog called?") == [1]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["state.json", "turns.sqlite3"])
@pytest.mark.parametrize("content", [None, b"", b"{", b'{"turns": 4}', b"garbage" * 1000])
def test_a_damaged_state_is_refused(
    bm25: Bm25, make_bm25: MakeBm25, tmp_path: Path, name: str, content: bytes | None
) -> None:
    file = state_of(bm25, tmp_path / "state") / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(CheckpointError):
        make_bm25(state=tmp_path / "state")


def test_a_store_that_fails_is_a_storage_error(bm25: Bm25) -> None:
    bm25.close()
    with pytest.raises(StorageError, match="memagent backends rebuild bm25"):
        bm25.recall("What is my dog called?")
