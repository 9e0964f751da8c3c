"""The text channel of Titans: what it recalls, forgets, stores and reports."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from memagent.agent.models.embedding import HashingEmbedder
from memagent.backends.errors import CheckpointError
from memagent.backends.picture import Series
from memagent.backends.protocol import Resources
from memagent.backends.records import Attachment, Turn
from memagent.backends.titans import Titans, TitansMemoryConfig
from memagent.backends.titans.chunks import split_text

FACT = "My dog is called Biscuit."
QUESTION = "What is my dog called?"
STATEMENTS = [
    f"The weather in town number {number} was {word}." for number, word in enumerate(["grey", "fair"] * 10)
]

MakeMemory = Callable[..., Titans]


def user_turn(seq: int, text: str, session: str = "monday", **fields: Any) -> Turn:
    when = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=seq)
    return Turn(seq, f"{seq:032x}", session, "user", text, when, **fields)


def resources(folder: Path) -> Resources:
    return Resources(folder, make_embedder=HashingEmbedder)


@pytest.fixture
def make_memory(tmp_path: Path) -> MakeMemory:
    """Make a memory that has read texts, all in one session."""

    def make(*texts: str, **settings: Any) -> Titans:
        memory = Titans(TitansMemoryConfig(**settings), resources(tmp_path))
        memory.remember([user_turn(seq, text) for seq, text in enumerate(texts, start=1)])
        return memory

    return make


def saved(memory: Titans, folder: Path) -> Path:
    folder.mkdir()
    memory.save(folder)
    return folder


def test_it_recalls_the_answer_first_and_reports_the_surprise(make_memory: MakeMemory) -> None:
    memory = make_memory(*STATEMENTS, FACT)
    hits = memory.recall(QUESTION, limit=3)
    assert hits[0].text == FACT
    assert hits[0].seqs == (21,)
    assert "surprise was" in hits[0].why
    assert memory.recall("zyxgrabl") == []
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)


def test_what_the_network_has_forgotten_is_not_recalled_though_the_turn_is_kept(
    make_memory: MakeMemory,
) -> None:
    texts = [FACT, *STATEMENTS, *(f"{text} Again." for text in STATEMENTS)]
    assert make_memory(*texts).recall(QUESTION, limit=1)[0].text == FACT
    recalled_texts = [hit.text for hit in make_memory(*texts, alpha=0.2).recall(QUESTION)]
    assert FACT not in recalled_texts


@pytest.mark.parametrize("forgotten", [1, 5, 11])
def test_forgetting_leaves_the_weights_as_if_the_turn_had_never_been_read(
    make_memory: MakeMemory, tmp_path: Path, forgotten: int
) -> None:
    texts = [*STATEMENTS[:5], FACT, *STATEMENTS[5:10]]
    memory, without = make_memory(*texts), make_memory()
    without.remember([user_turn(seq, text) for seq, text in enumerate(texts, start=1) if seq != forgotten])
    assert memory.forget([forgotten, 99])
    for query in (QUESTION, STATEMENTS[2]):
        assert memory.recall(query) == without.recall(query)
    folders = saved(memory, tmp_path / "forgotten"), saved(without, tmp_path / "without")
    for name in ("neural_memory.safetensors", "associative_memory.safetensors"):
        tensors, expected = (load_file(folder / name) for folder in folders)
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in tensors.items())


def test_a_chunk_is_recalled_by_the_chunk_before_it_in_its_session(tmp_path: Path) -> None:
    memory = Titans(TitansMemoryConfig(successor_weight=1.0, abstain=False), resources(tmp_path))
    memory.remember([user_turn(1, "Who won the race?"), user_turn(2, "Leopold of course.")])
    memory.remember([user_turn(3, "Cucumbers.", "tuesday"), user_turn(4, "Radishes.", "wednesday")])
    assert memory.recall("Who really won the race?", limit=2)[1].text == "Leopold of course."


def test_an_earlier_turn_that_asks_the_same_is_not_recalled(make_memory: MakeMemory) -> None:
    hits = make_memory(FACT, QUESTION).recall("what is my dog called")
    assert [hit.text for hit in hits] == [FACT]


def test_a_loaded_memory_continues_with_the_same_numbers(make_memory: MakeMemory, tmp_path: Path) -> None:
    whole = make_memory(*STATEMENTS[:7])
    folder = saved(make_memory(*STATEMENTS[:7]), tmp_path / "stored")
    loaded = Titans.load(folder, TitansMemoryConfig(), resources(tmp_path))
    for memory in (loaded, whole):
        memory.remember([user_turn(20, FACT)])
    assert loaded.recall(QUESTION) == whole.recall(QUESTION) != []
    assert loaded.stats() == whole.stats()


def test_damaged_files_are_refused(make_memory: MakeMemory, tmp_path: Path) -> None:
    folder = saved(make_memory(*STATEMENTS[:7]), tmp_path / "stored")
    (folder / "chunks.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="0 chunks but 7 embeddings"):
        Titans.load(folder, TitansMemoryConfig(), resources(tmp_path))
    (folder / "neural_memory.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Titans.load(folder, TitansMemoryConfig(), resources(tmp_path))


def test_turns_with_all_fields_can_be_stored_and_loaded(make_memory: MakeMemory, tmp_path: Path) -> None:
    picture = Attachment("image/png", 3, "0" * 64)
    turn = user_turn(1, FACT, speaker="Ana", in_view=(2, 3), recalled=(3,), attachments=(picture,))
    memory = make_memory()
    memory.remember([turn])
    folder = saved(memory, tmp_path / "stored")
    loaded = Titans.load(folder, TitansMemoryConfig(), resources(tmp_path))
    assert (
        saved(loaded, tmp_path / "again").joinpath("chunks.jsonl").read_text()
        == (folder / "chunks.jsonl").read_text()
    )
    assert loaded.recall(FACT + "!")[:1] == memory.recall(FACT + "!")[:1]


def test_remember_reports_surprise_and_strength(make_memory: MakeMemory) -> None:
    memory = make_memory(FACT)
    repetition, contradiction, empty = memory.remember(
        [user_turn(2, FACT), user_turn(3, "My dog is called Rex."), user_turn(4, " ")]
    )
    assert repetition.surprise is not None
    assert contradiction.surprise is not None
    assert repetition.strength is not None
    assert repetition.surprise < contradiction.surprise
    assert 0 <= repetition.strength < 1
    assert not empty.stored
    assert not memory.remember([user_turn(3, "My dog is called Rex.")])[0].stored


def test_stats_report_a_fixed_size_and_a_falling_surprise(make_memory: MakeMemory) -> None:
    few, many = make_memory(*STATEMENTS[:2]).stats(), make_memory(*STATEMENTS).stats()
    assert few.extras["memory_bytes"] == many.extras["memory_bytes"]
    assert (few.items, many.items) == (2, 20)
    assert 0 < many.extras["mean_surprise"] < few.extras["mean_surprise"] <= 1  # type: ignore[operator]


@pytest.mark.parametrize("text", ["One. Two! Three?\nFour", "word " * 900, "x" * 1200, "A sentence. " * 200])
def test_chunks_are_short_and_together_are_the_text(text: str) -> None:
    chunks = list(split_text(text))
    assert all(0 < len(chunk) <= 500 for chunk in chunks)
    assert "".join("".join(chunks).split()) == "".join(text.split())


def test_sentences_stay_whole() -> None:
    assert list(split_text("One. Two.")) == ["One. Two."]
    assert list(split_text("A" * 300 + ". " + "B" * 300 + ".")) == ["A" * 300 + ".", "B" * 300 + "."]


def test_a_picture_shows_the_surprise_of_each_turn(make_memory: MakeMemory) -> None:
    series = make_memory("My dog is called Biscuit.", "My dog is called Biscuit.").picture()[-1]
    assert isinstance(series, Series)
    assert series.x == (1, 2)
    assert series.curves["surprise"][1] < series.curves["surprise"][0]
    assert make_memory().picture()
