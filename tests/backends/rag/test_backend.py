"""The RAG backend as a whole, with word hashing for embeddings."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from memagent.agent.models.embedding import HashingEmbedder
from memagent.backends.errors import CheckpointError, StorageError
from memagent.backends.protocol import Resources
from memagent.backends.rag import Rag, RagConfig
from memagent.backends.rag.context_index import ContextIndex
from memagent.backends.shared.chunking import MAX_CHUNK_CHARS
from memagent.backends.shared.joined_embedder import with_multilingual
from tests.backends.turns import FACTS, bytes_below, make_turn

MakeRag = Callable[..., Rag]


@pytest.fixture
def resources(tmp_path: Path) -> Callable[[], Resources]:
    """Make resources, each with a workspace of its own."""
    made: list[Path] = []

    def make() -> Resources:
        made.append(tmp_path / f"workspace{len(made)}")
        made[-1].mkdir()
        return Resources(made[-1], HashingEmbedder)

    return make


@pytest.fixture
def make_rag(resources: Callable[[], Resources]) -> Iterator[MakeRag]:
    """Make backends, or load them; all are closed at the end."""
    made: list[Rag] = []

    def make(*texts: str, saved: Path | None = None, **settings: object) -> Rag:
        config = RagConfig(**settings)  # type: ignore[arg-type]
        rag = Rag.load(saved, config, resources()) if saved else Rag(config, resources())
        made.append(rag)
        rag.remember([make_turn(seq, text) for seq, text in enumerate(texts, start=1)])
        return rag

    yield make
    for rag in made:
        rag.close()


@pytest.fixture
def rag(make_rag: MakeRag) -> Rag:
    return make_rag(*FACTS)


def texts(rag: Rag, query: str, limit: int = 5) -> list[str]:
    return [item.text for item in rag.recall(query, limit=limit)]


def saved(rag: Rag, tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    folder.mkdir()
    rag.save(folder)
    return folder


# recalling


def test_an_empty_memory_recalls_nothing(make_rag: MakeRag) -> None:
    assert make_rag().recall("What is my dog called?") == []
    assert make_rag(abstain=False).recall("") == []


def test_the_fact_asked_for_is_recalled_with_its_turn(make_rag: MakeRag) -> None:
    rag = make_rag()
    turn = make_turn(4, "My dog is called Biscuit.", "user", "tuesday", "Ana")
    rag.remember([make_turn(3, "I live in Porto."), turn])
    (found,) = rag.recall("What is my dog called?")
    assert (found.text, found.seqs) == (turn.text, (4,))
    assert 0.5 < found.score <= 1.0
    assert f"Found by BM25 rank 1 and embedding rank 1; {found.score:.0%} likely" in found.why
    assert not found.regenerated


@pytest.mark.parametrize("query", ["What is the capital of France?", "Good morning!", "...", "", "\0"])
def test_what_memory_does_not_hold_is_not_recalled(rag: Rag, query: str) -> None:
    assert rag.recall(query) == []


def test_without_abstention_the_best_hits_come_back_whatever_they_are(make_rag: MakeRag) -> None:
    strict, loose = make_rag(*FACTS), make_rag(*FACTS, abstain=False)
    assert texts(strict, "Write a haiku about the sea.") == []
    assert set(texts(loose, "Write a haiku about the sea.")) == set(FACTS)
    assert set(texts(loose, "my sister and my dog")) == set(FACTS)
    assert set(texts(loose, "my sister and my dog", limit=2)) == {FACTS[0], FACTS[2]}


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_more_is_recalled_than_asked_for(make_rag: MakeRag, limit: int) -> None:
    rag = make_rag(*FACTS, abstain=False)
    assert texts(rag, "my dog", limit=limit) == texts(rag, "my dog", limit=5)[:limit]


def test_a_repeated_question_is_not_recalled_but_its_answer_is(make_rag: MakeRag) -> None:
    rag = make_rag("What is my dog called?", "my dog is called Biscuit", "what is my DOG called")
    assert texts(rag, "What is my dog called?") == ["my dog is called Biscuit"]
    assert texts(rag, "what is my dog called") == ["my dog is called Biscuit"]


def test_a_question_that_was_asked_before_does_not_displace_the_fact(make_rag: MakeRag) -> None:
    rag = make_rag("I parked the car on level 3.", "Where did I park my car?")
    assert "I parked the car on level 3." in texts(rag, "Where is my car parked?")


def test_what_supersedes_a_relevant_fact_is_recalled_with_it(make_rag: MakeRag) -> None:
    rag = make_rag("I work at Acme Corp as an engineer.", "I left Acme Corp and started at Globex last week.")
    assert len(texts(rag, "Where do I work?")) == 2


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ("Error E4012 happens when the pump is dry.", "E4012"),
        ("My number is 555-0143 22.", "555014322"),
        ("The id is 550e8400-e29b-41d4-a716-446655440000.", "550e8400-e29b-41d4-a716-446655440000"),
        ("We run 2.13.0 now.", "Which machine has 2.13.0?"),
    ],
)
def test_a_rare_literal_is_found_however_it_is_written(make_rag: MakeRag, told: str, asked: str) -> None:
    rag = make_rag(*FACTS, told)
    assert texts(rag, asked) == [told]


@pytest.mark.parametrize("asked", ["E4013", "555014323"])
def test_another_literal_finds_nothing(make_rag: MakeRag, asked: str) -> None:
    rag = make_rag(*FACTS, "Error E4012 happens when the pump is dry.", "My number is 555-0143 22.")
    assert texts(rag, asked) == []


@pytest.mark.parametrize(
    "message", ["Write a haiku about the sea.", "Schreib ein Haiku über das Meer.", "给我讲个笑话。"]
)
def test_two_facts_are_not_brought_into_what_needs_none(make_rag: MakeRag, message: str) -> None:
    assert texts(make_rag("My cat is called Mirza.", "The cats sleep a lot."), message) == []


def test_a_repeated_statement_is_recalled(make_rag: MakeRag) -> None:
    assert texts(make_rag("My dog is called Biscuit."), "My dog is called Biscuit.") == [
        "My dog is called Biscuit."
    ]


def test_turns_of_one_text_are_recalled_once_with_all_their_turns(make_rag: MakeRag) -> None:
    rag = make_rag("My dog is called Biscuit.", "I live in Porto.", "my dog is called Biscuit")
    assert [item.seqs for item in rag.recall("What is my dog called?")] == [(3, 1)]


def test_a_huge_turn_is_recalled_by_a_chunk_in_its_middle(make_rag: MakeRag) -> None:
    rng = random.Random(5)
    filler = " ".join(rng.choices([f"filler{number}" for number in range(900)], k=6500))
    needle = "The lighthouse keeper named his albatross Winifred."
    middle = len(filler) // 2
    huge = f"{filler[:middle]}. {needle} {filler[middle:]}"[:100_000]
    rag = make_rag("My dog is called Biscuit.", huge, "I live in Porto.", abstain=False)
    found, *_ = rag.recall("What did the lighthouse keeper name his albatross?")
    assert needle in found.text
    assert len(found.text) <= MAX_CHUNK_CHARS < len(huge)
    assert found.seqs == (2,)
    assert rag.stats().items == 3


def test_the_best_chunk_of_a_turn_stands_for_it(make_rag: MakeRag) -> None:
    long = "I collect stamps from Peru. " * 60 + "I also collect coins from Chile. " * 60
    found = make_rag(long, abstain=False).recall("coins from Chile")
    assert [item.seqs for item in found] == [(1,)]
    assert "Chile" in found[0].text


def test_an_answer_of_one_word_is_found_by_its_question(make_rag: MakeRag) -> None:
    rag = make_rag(abstain=False)
    rag.remember([make_turn(1, "Which city were you born in?", "assistant"), make_turn(2, "Oamaru")])
    assert "Oamaru" in texts(rag, "In which city was I born?")


# remembering


def test_a_turn_handed_over_twice_is_held_once(rag: Rag) -> None:
    before = rag.stats()
    rag.remember([make_turn(seq, text) for seq, text in enumerate(FACTS, start=1)])
    rag.remember([make_turn(2, "another text under a known number")])
    assert rag.stats().items == before.items == 5
    assert rag.stats().extras == before.extras
    assert texts(rag, "What is my dog called?") == ["My dog is called Biscuit."]


def test_remembering_nothing_changes_nothing(rag: Rag) -> None:
    rag.remember([])
    assert rag.stats().items == 5


def test_stats_count_turns_chunks_vectors_and_bytes(make_rag: MakeRag) -> None:
    rag = make_rag("My dog is called Biscuit.", "word " * 300)
    stats = rag.stats()
    assert stats.items == 2
    assert stats.extras == {"chunks": 3, "vectors": 3, "embedder": "hashing+multilingual"}
    assert stats.bytes_on_disk > 10_000
    assert stats.bytes_in_memory == 3 * (384 + 512) * 4
    rag.remember([make_turn(3, "I grew up in Oamaru, so the smell of the sea makes me homesick.")])
    assert rag.stats().extras["vectors"] == 6


# forgetting


def test_what_is_forgotten_is_in_no_recollection_and_no_file(make_rag: MakeRag, tmp_path: Path) -> None:
    rag = make_rag(*FACTS, "I play the xylophone in a band.", "Loudly.", abstain=False)
    # The first part of the joined vector; the second differs in its last bits by what is embedded beside it.
    gone = (HashingEmbedder().embed(["I play the xylophone in a band."])[0] / np.float32(2**0.5)).tobytes()
    assert b"xylophon" in bytes_below(tmp_path)
    assert gone in bytes_below(tmp_path)
    assert rag.forget([6]) is True
    assert "I play the xylophone in a band." not in texts(rag, "xylophone band", limit=20)
    assert b"xylophon" not in bytes_below(tmp_path)
    assert gone not in bytes_below(tmp_path)
    assert rag.stats().items == 6


def test_forgetting_unknown_turns_changes_nothing(rag: Rag) -> None:
    assert rag.forget([99, 100]) is True
    assert rag.forget([]) is True
    assert rag.stats().items == 5


def test_forgetting_everything_leaves_a_memory_that_works(rag: Rag) -> None:
    rag.forget(range(1, 6))
    assert rag.stats().items == 0
    assert rag.stats().extras["vectors"] == 0
    rag.remember([make_turn(6, "My dog is called Rex.")])
    assert texts(rag, "What is my dog called?") == ["My dog is called Rex."]


def test_consolidation_changes_nothing_that_can_be_recalled(make_rag: MakeRag) -> None:
    rag = make_rag(*FACTS, abstain=False)
    rag.forget([2])
    before = rag.recall("my dog and my sister")
    report = rag.consolidate()
    assert (report.before, report.after) == (4, 4)
    assert rag.recall("my dog and my sister") == before


# saving and loading


def test_a_loaded_state_recalls_the_same(rag: Rag, make_rag: MakeRag, tmp_path: Path) -> None:
    folder = saved(rag, tmp_path)
    loaded = make_rag(saved=folder)
    for query in ("What is my dog called?", "Where do I live?", "What is my sister's job?", "Rome"):
        assert loaded.recall(query) == rag.recall(query)
    assert loaded.stats().items == rag.stats().items
    assert loaded.stats().extras == rag.stats().extras


def test_saving_does_not_end_use_and_later_changes_do_not_reach_the_saved(
    rag: Rag, make_rag: MakeRag, tmp_path: Path
) -> None:
    folder = saved(rag, tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rag.remember([make_turn(6, "My cat is called Crumb.")])
    rag.forget([1])
    loaded = make_rag(saved=folder)
    loaded.remember([make_turn(7, "My goldfish is called Bob.")])
    assert texts(rag, "What is my cat called?") == ["My cat is called Crumb."]
    assert texts(loaded, "What is my dog called?")[0] == "My dog is called Biscuit."
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", None),
        ("state.json", b"{"),
        ("state.json", b"{}"),
        ("state.json", b'{"chunks": 4}'),
        ("full_text.sqlite3", None),
        ("full_text.sqlite3", b"garbage" * 1000),
        ("full_text.sqlite3", b""),
        ("chroma", None),
        ("chroma/chroma.sqlite3", b"garbage" * 1000),
    ],
)
def test_a_damaged_state_is_refused(
    rag: Rag, make_rag: MakeRag, tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = saved(rag, tmp_path) / name
    if content is not None:
        path.write_bytes(content)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(CheckpointError):
        make_rag(saved=tmp_path / "saved")


def test_a_state_that_another_process_replaces_while_it_is_copied_is_refused_too(
    rag: Rag, make_rag: MakeRag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(rag, tmp_path)
    copy = shutil.copy2

    def vanish(source: str, target: str, **options: bool) -> str:
        Path(source).unlink()
        return copy(source, target, **options)

    monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, vanish, False, False))
    with pytest.raises(CheckpointError):
        make_rag(saved=folder)


def test_the_fingerprint_names_what_a_state_depends_on(resources: Callable[[], Resources]) -> None:
    here = Rag.fingerprint(RagConfig(), resources())
    joined = with_multilingual(HashingEmbedder())
    assert (here["embedder"], here["embedder_digest"]) == ("hashing+multilingual", joined.digest)
    assert Rag.fingerprint(RagConfig(abstain=False, candidates=3), resources()) == here
    assert Rag.fingerprint(RagConfig(url="http://host:8000"), resources()) != here


def test_after_close_the_workspace_can_be_removed_and_made_anew(
    resources: Callable[[], Resources],
) -> None:
    place = resources()
    for _ in range(3):
        rag = Rag(RagConfig(), place)
        rag.remember([make_turn(1, "My dog is called Biscuit.")])
        assert rag.stats().items == 1
        rag.close()
        shutil.rmtree(place.workspace)
        place.workspace.mkdir()


def test_a_store_that_fails_is_a_storage_error(rag: Rag, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> dict[str, float]:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(ContextIndex, "search_weighted", fail)
    with pytest.raises(StorageError, match="The journal is kept apart"):
        rag.recall("What is my dog called?")
