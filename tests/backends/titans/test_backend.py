"""Titans as a memory: what the network learns, forgets and points at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from memagent.agent.models.embedding import HashingEmbedder
from memagent.backends.errors import CheckpointError
from memagent.backends.protocol import Resources
from memagent.backends.records import Turn
from memagent.backends.titans import Titans, TitansConfig
from memagent.backends.titans.chunks import cut
from memagent.backends.titans.memory import TestTimeMemory

FACT = "My dog is called Biscuit."
QUESTION = "What is my dog called?"
OTHERS = [
    f"The weather in town number {place} was {word}." for place, word in enumerate(["grey", "fair"] * 10)
]

Make = Callable[..., Titans]


def said(seq: int, text: str, session: str = "monday") -> Turn:
    when = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=seq)
    return Turn(seq, f"{seq:032x}", session, "user", text, when)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a memory that has read texts, all in one session."""

    def make_(*texts: str, **settings: Any) -> Titans:
        backend = Titans(TitansConfig(**settings), resources(tmp_path))
        backend.remember([said(seq, text) for seq, text in enumerate(texts, start=1)])
        return backend

    return make_


def resources(folder: Path) -> Resources:
    return Resources(folder, make_embedder=HashingEmbedder)


def drawn(count: int, dimension: int = 32, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed)), dim=1)


def network(depth: int = 1, alpha: float = 0.0, theta: float = 0.3) -> TestTimeMemory:
    return TestTimeMemory(32, depth, 64, theta, 0.2, alpha, seed=0)


# the network


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_what_is_told_again_surprises_less_and_is_written_less(depth: int) -> None:
    memory, (one,) = network(depth), drawn(1)
    seen = [memory.write(one, None) for _ in range(6)]
    assert seen[0].surprise == pytest.approx(1.0, abs=1e-4)  # an empty memory says nothing
    assert seen[-1].surprise < 0.3 * seen[0].surprise
    if depth < 3:  # three layers, the last of them 0 at first, begin to learn slowly
        assert seen[-1].strength < 0.6 * seen[0].strength
    assert float(memory.read(one)[0] @ one) > 0.7


def test_steps_too_large_for_a_deep_memory_do_not_destroy_it() -> None:
    memory = TestTimeMemory(32, 4, 64, theta=0.5, eta=0.9, alpha=0.0, seed=0)
    for one in drawn(300, seed=2) * 3:
        memory.write(one, one)
    assert all(tensor.isfinite().all() for tensor in memory.tensors().values())
    assert memory.read(drawn(1)[0]).isfinite().all()


def test_what_follows_instead_is_written_over_what_followed() -> None:
    memory, (before, then, instead) = network(), drawn(3)
    for _ in range(6):
        memory.write(then, before)
    assert float(memory.read(before)[1] @ then) > 0.7
    for _ in range(5):
        memory.write(instead, before)
    answer = memory.read(before)[1]
    assert float(answer @ instead) > 0.7 > float(answer @ then)


def test_the_memory_keeps_its_size_and_forgets_by_its_gate() -> None:
    keeping, forgetting, spans = network(), network(alpha=0.2), drawn(24, seed=1)
    size = keeping.bytes
    for one in spans:
        keeping.write(one, None)
        forgetting.write(one, None)
    assert keeping.bytes == size == 2 * 2 * 32 * 32 * 4
    assert float(keeping.read(spans[0])[0] @ spans[0]) > 0.3
    assert abs(float(forgetting.read(spans[0])[0] @ spans[0])) < 0.1
    assert float(forgetting.read(spans[-1])[0] @ spans[-1]) > 0.3


# the backend


def test_it_points_at_what_it_was_told_and_says_how_surprised_it_was(make: Make) -> None:
    backend = make(*OTHERS, FACT)
    found = backend.recall(QUESTION, limit=3)
    assert found[0].text == FACT
    assert found[0].seqs == (21,)
    assert "surprise was" in found[0].why
    assert backend.recall("zyxgrabl") == []
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


def test_what_the_network_has_forgotten_is_not_recalled_though_the_turn_is_there(make: Make) -> None:
    texts = [FACT, *OTHERS, *(f"{text} Again." for text in OTHERS)]
    assert make(*texts).recall(QUESTION, limit=1)[0].text == FACT
    assert FACT not in [item.text for item in make(*texts, alpha=0.2).recall(QUESTION)]


@pytest.mark.parametrize("gone", [1, 5, 11])
def test_forgetting_is_as_if_it_had_never_been_read(make: Make, gone: int) -> None:
    texts = [*OTHERS[:5], FACT, *OTHERS[5:10]]
    backend, without = make(*texts), make()
    without.remember([said(seq, text) for seq, text in enumerate(texts, start=1) if seq != gone])
    assert backend.forget([gone, 99])
    for query in (QUESTION, OTHERS[2]):
        assert backend.recall(query) == without.recall(query)
    for name, tensor in backend._memory.tensors().items():
        assert torch.equal(tensor, without._memory.tensors()[name])


def test_what_follows_in_a_session_is_found_by_what_came_before(make: Make, tmp_path: Path) -> None:
    backend = Titans(TitansConfig(follow=1.0, abstain=False), resources(tmp_path))
    backend.remember([said(1, "Who won the race?"), said(2, "Leopold of course.")])
    backend.remember([said(3, "Cucumbers.", "tuesday"), said(4, "Radishes.", "wednesday")])
    assert backend.recall("Who really won the race?", limit=2)[1].text == "Leopold of course."


def test_the_same_question_asked_before_is_no_answer(make: Make) -> None:
    assert [item.text for item in make(FACT, QUESTION).recall("what is my dog called")] == [FACT]


def test_it_comes_back_from_a_folder_and_goes_on_to_the_same_numbers(make: Make, tmp_path: Path) -> None:
    backend, whole = make(*OTHERS[:7]), make(*OTHERS[:7])
    folder = tmp_path / "stored"
    folder.mkdir()
    backend.save(folder)
    again = Titans.load(folder, TitansConfig(), resources(tmp_path))
    for one in (again, whole):
        one.remember([said(20, FACT)])
    assert again.recall(QUESTION) == whole.recall(QUESTION) != []
    assert again.stats() == whole.stats()
    (folder / "spans.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="embeddings"):
        Titans.load(folder, TitansConfig(), resources(tmp_path))
    (folder / "memory.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Titans.load(folder, TitansConfig(), resources(tmp_path))


def test_stats_tell_its_size_and_surprise(make: Make) -> None:
    few, many = make(*OTHERS[:2]).stats(), make(*OTHERS).stats()
    assert few.extras["memory_bytes"] == many.extras["memory_bytes"]
    assert (few.items, many.items) == (2, 20)
    assert 0 < many.extras["mean_surprise"] < few.extras["mean_surprise"] <= 1  # type: ignore[operator]


# spans


@pytest.mark.parametrize("text", ["One. Two! Three?\nFour", "word " * 900, "x" * 1200, "A sentence. " * 200])
def test_a_text_is_cut_into_spans_that_give_it_back(text: str) -> None:
    parts = list(cut(text))
    assert all(0 < len(part) <= 500 for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_sentences_stay_together() -> None:
    assert list(cut("One. Two.")) == ["One. Two."]
    assert list(cut("A" * 300 + ". " + "B" * 300 + ".")) == ["A" * 300 + ".", "B" * 300 + "."]
