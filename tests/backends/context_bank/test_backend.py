"""The context bank as a memory, with a tiny model: what its state holds, what merging changes, and what forgetting restores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.models.embedding import HashingEmbedder
from memagent.agent.testing import tiny_model
from memagent.backends.context_bank import ContextBankConfig, ContextBankMemory, training
from memagent.backends.context_bank import weights as weight_files
from memagent.backends.errors import CheckpointError, InputError, ModelError, SettingError
from memagent.backends.picture import Table
from memagent.backends.protocol import Resources
from memagent.backends.records import Turn, Use
from tests.backends.context_bank.tiny import lines, train_tiny_autoencoder

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = ContextBankConfig(ratio=4, abstain=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    train_tiny_autoencoder(folder, tiny_model(), ratio=4)
    return folder


@pytest.fixture
def resources(cache: Path, tmp_path: Path) -> Resources:
    return Resources(tmp_path, make_embedder=HashingEmbedder, make_model=tiny_model, cache=cache)


def turns(number: int) -> list[Turn]:
    """Return turns whose seqs have gaps, as replies leave them."""
    texts = lines()
    return [
        Turn(2 * seq, f"{seq:032x}", "s", "user", f"{texts[seq % 210]} ({seq})", BEGAN + timedelta(hours=seq))
        for seq in range(1, number + 1)
    ]


def stored(memory: ContextBankMemory, folder: Path) -> bytes:
    folder.mkdir()
    memory.save(folder)
    (file,) = folder.iterdir()
    return file.read_bytes()


def filled(
    resources: Resources, history: Sequence[Turn], uses: Sequence[Use] = (), **settings: Any
) -> ContextBankMemory:
    """Return a memory that read turns and uses in the order of the journal."""
    memory = ContextBankMemory(replace(CONFIG, **settings), resources)
    items: list[Turn | Use] = [*history, *uses]
    for item in sorted(items, key=lambda item: item.seq):
        if isinstance(item, Turn):
            memory.remember([item])
        else:
            memory.note_use([item])
    return memory


def test_a_turn_is_decoded_from_its_latents(resources: Resources) -> None:
    history = turns(3)
    memory = filled(resources, history)
    ranked = sorted(memory._search.ranked("The baker", (), 3), key=lambda turn: turn.seq)
    assert memory._search.whole_texts([turn.seq for turn in ranked]) == [turn.text for turn in history]
    assert {turn.author for turn in ranked} == {"User"}


def test_a_long_turn_is_decoded_whole(resources: Resources) -> None:
    """It is read in chunks; the speaker's name stands once."""
    text = " ".join(lines()[:60])
    memory = filled(resources, [replace(turns(1)[0], text=text, speaker="Ana")])
    assert memory.stats().items > 100
    (turn,) = memory._search.ranked("The baker", (), 3)
    assert memory._search.whole_texts([turn.seq]) == [text]
    assert turn.author == "Ana"
    assert turn.text in text


def test_the_state_holds_no_text(resources: Resources, tmp_path: Path) -> None:
    memory = filled(resources, turns(3))
    state = stored(memory, tmp_path / "state")
    assert not any(word.encode() in state for turn in turns(3) for word in turn.text.split() if len(word) > 4)


def test_a_question_finds_the_turn_with_its_words(resources: Resources) -> None:
    memory = filled(resources, turns(40))
    (first, *_) = memory.recall("The baker repairs what?", limit=3)
    texts = {turn.seq: turn.text for turn in turns(40)}
    assert "repairs" in texts[first.seqs[0]] or "baker" in texts[first.seqs[0]]


@pytest.mark.parametrize("policy", ["balanced", "merge", "plain", "random", "fifo", "lru"])
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_forgetting_restores_the_state_of_a_memory_that_never_read_the_turns(
    resources: Resources, tmp_path: Path, policy: str, precision: str
) -> None:
    """Also after they were merged, and with the uses of replies that are forgotten with them."""
    history = turns(70)
    uses = [Use(2 * seq + 1, (2 * max(1, seq - 3), 2 * max(1, seq // 2)), BEGAN) for seq in range(5, 70, 7)]
    settings: dict[str, Any] = {"policy": policy, "precision": precision, "capacity": 90}
    memory = filled(resources, history, uses, **settings)
    gone = {8, 40, 41, 42, 76, 101, 138}
    needed = memory.needed_to_forget(gone)
    assert needed
    assert memory.forget(gone, [turn for turn in history if turn.seq in needed])
    kept = [turn for turn in history if turn.seq not in gone]
    left = [
        replace(use, recalled=tuple(seq for seq in use.recalled if seq not in gone))
        for use in uses
        if use.seq not in gone
    ]
    never = filled(resources, kept, left, **settings)
    assert stored(memory, tmp_path / "a") == stored(never, tmp_path / "b")


def test_forgetting_changes_nothing_without_the_turns_it_needs(resources: Resources, tmp_path: Path) -> None:
    memory = filled(resources, turns(40), capacity=40)
    before = stored(memory, tmp_path / "before")
    assert memory.needed_to_forget([20])
    assert not memory.forget([20], [])
    assert stored(memory, tmp_path / "after") == before


def test_the_bank_is_bounded_and_says_what_it_merged(resources: Resources) -> None:
    memory = filled(resources, turns(60), capacity=50)
    stats = memory.stats()
    assert stats.items <= 50
    assert stats.extras["turns"] == 60
    report = memory.consolidate()
    assert report.before == report.after == stats.items
    (table,) = report.pictures
    assert isinstance(table, Table)
    assert table.rows
    assert "merged" in report.summary


def test_merged_turns_are_still_found(resources: Resources) -> None:
    memory = filled(resources, turns(60), capacity=50)
    found = {seq for hit in memory.recall("The baker repairs what?", limit=100) for seq in hit.seqs}
    assert found == {turn.seq for turn in turns(60)}
    assert any("merged" in hit.why for hit in memory.recall("The baker repairs what?", limit=100))


def test_a_stored_state_is_the_same_memory(resources: Resources, tmp_path: Path) -> None:
    memory = filled(resources, turns(30), capacity=40)
    state = tmp_path / "state"
    state.mkdir()
    memory.save(state)
    loaded = ContextBankMemory.load(state, memory.config, resources)
    question = "Who paints wooden boats?"
    assert loaded.recall(question) == memory.recall(question)
    assert loaded.stats() == memory.stats()


@pytest.mark.parametrize("damage", ["missing", "cut", "other capacity"])
def test_a_damaged_state_is_refused(resources: Resources, tmp_path: Path, damage: str) -> None:
    memory = filled(resources, turns(30), capacity=200)
    state = tmp_path / "state"
    state.mkdir()
    memory.save(state)
    (file,) = state.iterdir()
    config = memory.config
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        config = replace(config, capacity=10)
    with pytest.raises(CheckpointError):
        ContextBankMemory.load(state, config, resources)


def test_clusters_attend_to_few_turns(resources: Resources) -> None:
    pytest.importorskip("sklearn")
    history = turns(200)
    everything = filled(resources, history)
    clustered = filled(resources, history, clusters=2)
    clustered._clusters._brute_force_below = 50
    question = "Who collects rare stamps?"
    few = clustered.recall(question, limit=300)
    assert 0 < len(few) < len(everything.recall(question, limit=300))


class TestWeights:
    """The file of the autoencoder: missing, damaged, of another ratio."""

    def test_without_weights_it_names_the_command(self, resources: Resources) -> None:
        with pytest.raises(
            SettingError, match="memagent backends train context_bank --set context_bank.ratio=8"
        ):
            ContextBankMemory(replace(CONFIG, ratio=8), resources)

    def test_damaged_weights_are_refused(self, resources: Resources, tmp_path: Path) -> None:
        folder = tmp_path / "damaged"
        folder.mkdir()
        name = weight_files.file_name(tiny_model(), 4)
        (folder / name).write_bytes((resources.cache / name).read_bytes()[:-50] if resources.cache else b"")
        with pytest.raises(ModelError, match="train it again"):
            ContextBankMemory(CONFIG, replace(resources, cache=folder))

    def test_the_shipped_files_are_those_that_are_pinned(self) -> None:
        import hashlib

        digests = {
            hashlib.sha256(file.read_bytes()).hexdigest()
            for file in weight_files.FOLDER.glob("*.safetensors")
        }
        assert digests == set(weight_files.SHIPPED.values())


class TestTraining:
    """Texts for training, and what it would cost."""

    def test_training_needs_text(self, resources: Resources) -> None:
        with pytest.raises(SettingError, match="one text a line"):
            ContextBankMemory.training_plan(replace(CONFIG, ratio=8), resources)

    def test_too_few_lines_are_refused(self, resources: Resources, tmp_path: Path) -> None:
        (tmp_path / "few.txt").write_text("My dog is called Biscuit today.\n", encoding="utf-8")
        with pytest.raises(InputError, match="1 lines"):
            training.read_texts(str(tmp_path / "few.txt"), 0)

    @pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"])
    def test_an_unreadable_file_is_named(self, tmp_path: Path, content: bytes | None) -> None:
        file = tmp_path / "talk.txt"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InputError, match=r"talk\.txt cannot be read"):
            training.read_texts(str(file), 0)

    def test_the_plan_says_what_it_takes(self, resources: Resources, tmp_path: Path) -> None:
        text = tmp_path / "lines.txt"
        text.write_text("\n".join(lines()) + "\n", encoding="utf-8")
        plan = ContextBankMemory.training_plan(ContextBankConfig(ratio=4, text=str(text)), resources)
        assert plan.done
        (tmp_path / "empty").mkdir()
        anew = replace(resources, cache=tmp_path / "empty")
        plan = ContextBankMemory.training_plan(ContextBankConfig(ratio=4, text=str(text)), anew)
        assert not plan.done
        assert plan.minutes > 0
        assert plan.bytes > 0
        assert plan.resumable


def test_a_merged_turn_keeps_the_direction_of_its_key(resources: Resources) -> None:
    """Merging within turns halves the vectors and changes no key: keys are compared on the scale of one token, merged or not."""
    history = turns(60)
    whole, merged = filled(resources, history), filled(resources, history, capacity=150)
    assert merged.stats().items < 0.7 * whole.stats().items
    kept = merged._search.table.merged > 0
    cosines = (whole._search.table.keys * merged._search.table.keys).sum(axis=1)
    assert kept.any()
    assert cosines[kept].mean() > 0.8
