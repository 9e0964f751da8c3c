"""The MeMo memory: exact regeneration, exact forgetting, silence where a text is damaged, what its state contains."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memagent.agent.models.embedding import HashingEmbedder
from memagent.backends.errors import CheckpointError
from memagent.backends.memo import Memo, MemoConfig
from memagent.backends.memo.tokenizer import ByteTokenizer
from memagent.backends.protocol import Resources
from memagent.backends.records import Turn
from tests.backends.turns import FACTS

ODD = [
    "CAPITALS, lower;  two blanks\tand a tab!?",
    "🦊👩‍👩‍👧 \u202b עברית \u202c ünïcode e\u0301 你好、世界。",
    "line one\nline two\n\n  indented",
    "ha ha ha ha ha ha ha ha ha ha ha ha ha ha no",
    "<|im_end|> <s> [UNK] </memory> \x7f",
    "x",
]
LONG = " ".join(f"Sentence number {number} is about the number {number * 7}." for number in range(120))
MakeMemo = Callable[..., Memo]


@pytest.fixture
def make_memo(tmp_path: Path) -> MakeMemo:
    """Make memories, or load them, with the words of the texts as their meaning."""
    made = iter(range(100))

    def make(*turns: Turn, state: Path | None = None, **settings: object) -> Memo:
        workspace = tmp_path / f"workspace{next(made)}"
        workspace.mkdir()
        config = MemoConfig(**settings)  # type: ignore[arg-type]
        resources = Resources(workspace, HashingEmbedder)
        memo = Memo.load(state, config, resources) if state else Memo(config, resources)
        memo.remember(turns)
        return memo

    return make


def turns(*texts: str, first: int = 1, speaker: str | None = None) -> list[Turn]:
    began = datetime(2026, 3, 1, 12, tzinfo=UTC)
    return [
        Turn(seq, f"id {seq}", "monday", "user", text, began + timedelta(minutes=seq), speaker)
        for seq, text in enumerate(texts, start=first)
    ]


def bytes_of(memo: Memo, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    memo.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("text", [*ODD, LONG, "word " * 2000])
def test_a_text_is_regenerated_with_every_character(make_memo: MakeMemo, text: str) -> None:
    memo = make_memo(*turns(*FACTS, text, *FACTS, speaker="Ana María"), abstain=False, candidates=1000)
    stored = memo._store.regenerate(memo._store.of_turns([6]))
    assert " ".join(item.text.partition("\n")[2] for item in stored) == text.strip()
    hits = memo.recall("What?", limit=1000)
    assert len({hit.seqs for hit in hits}) == len(hits) == 11
    assert all(hit.regenerated for hit in hits)


def test_a_full_matrix_is_regenerated(make_memo: MakeMemo) -> None:
    draw = random.Random(0)
    vocabulary = [f"word{number}" for number in range(500)]
    texts = [" ".join(draw.choices(vocabulary, k=18)) for _ in range(64)]
    memo = make_memo(*turns(*texts, first=64))
    assert memo.stats().extras["sequence_matrices"] == 1
    stored = memo._store.regenerate(memo._store.segments)
    assert [item.text.partition("\n")[2] for item in stored] == texts
    assert min(item.confidence for item in stored) > 0.9


@pytest.mark.parametrize("seed", [0, 1])
def test_forgetting_leaves_the_state_of_a_memory_that_never_read_the_turn(
    make_memo: MakeMemo, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    every = turns(
        *(f"{draw.choice(FACTS)} {draw.choice(FACTS)}" for _ in range(90)), *ODD, LONG, "...", "word " * 500
    )
    gone = draw.sample(every, 50)
    kept = [turn for turn in every if turn not in gone]
    memo = make_memo(*every)
    for turn in gone:
        assert memo.forget([turn.seq])
    draw.shuffle(kept)
    assert bytes_of(memo, tmp_path / "forgotten") == bytes_of(make_memo(*kept), tmp_path / "never read")


def test_a_memory_that_forgot_all_is_an_empty_one(make_memo: MakeMemo, tmp_path: Path) -> None:
    memo = make_memo(*turns(*FACTS, LONG))
    assert memo.forget(range(1, 7))
    assert bytes_of(memo, tmp_path / "forgotten") == bytes_of(make_memo(), tmp_path / "empty")
    assert memo.recall("dog") == []


def test_a_stored_state_recalls_and_forgets_the_same(make_memo: MakeMemo, tmp_path: Path) -> None:
    memo = make_memo(*turns(*FACTS, *ODD, LONG))
    before = bytes_of(memo, tmp_path / "first")
    loaded = make_memo(state=tmp_path / "first")
    assert bytes_of(loaded, tmp_path / "second") == before
    assert loaded.recall("What is my dog called?") == memo.recall("What is my dog called?")
    assert loaded.remember(turns(*FACTS))[0].stored is False
    assert loaded.forget([1])
    assert not any("Biscuit" in hit.text for hit in loaded.recall("What is my dog called?"))


def test_the_state_contains_no_text(make_memo: MakeMemo, tmp_path: Path) -> None:
    words = ["Zyxgrabl", "Quetzalina", "Oamaruwards", "florbitude"]
    memo = make_memo(*turns(*(f"My {word} is near the {word}." for word in words), speaker="Brunhildegard"))
    tokens = {token.strip("Ġ").casefold() for token in json.loads(_tokenizer_file())["model"]["vocab"]}
    searched = {word for word in [*words, "Brunhildegard"] if word.casefold() not in tokens}
    assert len(searched) == 5
    for name, content in bytes_of(memo, tmp_path / "state").items():
        for word in searched:
            assert word.casefold().encode() not in content.lower(), (name, word)


def _tokenizer_file() -> str:
    from memagent.backends.memo.tokenizer import FILE

    return FILE.read_text(encoding="utf-8")


def test_a_damaged_text_is_silent_and_is_not_forgotten_by_halves(make_memo: MakeMemo, tmp_path: Path) -> None:
    memo = make_memo(*turns(*FACTS), abstain=False)
    memo._store.sequences.matrices["block 0"].zero_()
    assert memo.recall("What is my dog called?") == []
    before = bytes_of(memo, tmp_path / "before")
    assert memo.forget([1]) is False
    assert bytes_of(memo, tmp_path / "after") == before


def test_rows_that_the_embedder_does_not_find_again_are_not_subtracted(
    make_memo: MakeMemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo = make_memo(*turns(*FACTS))
    embed = HashingEmbedder.embed
    monkeypatch.setattr(HashingEmbedder, "embed", lambda self, texts: embed(self, texts)[:, ::-1])
    assert memo.forget([1]) is False


DAMAGES: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "a matrix is missing": lambda tensors: tensors.pop("sequence.block 0"),
    "a matrix of another size": lambda tensors: tensors.update(
        {"sequence.block 0": torch.zeros(256, 256, dtype=torch.int16)}
    ),
    "a matrix of floats": lambda tensors: tensors.update({"sequence.block 0": torch.zeros(512, 512)}),
    "an index is missing": lambda tensors: tensors.pop("meaning.0.places"),
    "a place beyond the index": lambda tensors: tensors["words.0.places"].fill_(2**30),
    "too few counts": lambda tensors: tensors.update({"words.0.counts": tensors["words.0.counts"][1:]}),
    "complex numbers": lambda tensors: tensors.update(
        {"sequence.block 0": torch.zeros(512, 512, dtype=torch.complex64)}
    ),
    "hashes of floats": lambda tensors: tensors.update({"tokens.hashes": tensors["tokens.hashes"].float()}),
    "no counts of tokens": lambda tensors: tensors["tokens.counts"].zero_(),
    "negative counts": lambda tensors: tensors["meaning.0.counts"].neg_(),
    "an unknown tensor": lambda tensors: tensors.update({"words.7.places": torch.zeros(1)}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_state_is_refused(
    make_memo: MakeMemo, tmp_path: Path, damage: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    state = tmp_path / "state"
    bytes_of(make_memo(*turns(*FACTS)), state)
    tensors = load_file(state / "matrices.safetensors")
    damage(tensors)
    save_file(tensors, state / "matrices.safetensors")
    with pytest.raises(CheckpointError):
        make_memo(state=state)


def edited(content: dict[str, Any], **fields: object) -> str:
    """Return the ids of a state as JSON, with other fields of the first segment."""
    first, *others = content["segments"]
    return json.dumps(content | {"segments": [first | fields, *others]})


DAMAGED_IDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "nothing": lambda content: "",
    "another type": lambda content: "[]",
    "no segments": lambda content: "{}",
    "a segment without fields": lambda content: '{"segments": [{}], "pairs": {}}',
    "nested without end": lambda content: "[" * 200_000,
    "too many windows": lambda content: edited(content, windows=10**7, turn_windows=10**7),
    "no windows": lambda content: edited(content, windows=0, turn_windows=0),
    "a number as text": lambda content: edited(content, seq="1"),
    "another part": lambda content: edited(content, part=1),
    "half a surrogate pair": lambda content: edited(content, turn_id="\ud800"),
    "a segment twice": lambda content: json.dumps(
        content | {"segments": [content["segments"][0], *content["segments"]]}
    ),
    "turns in another order": lambda content: json.dumps(content | {"segments": content["segments"][::-1]}),
    "too few pairs": lambda content: json.dumps(content | {"pairs": {"block 0": 1}}),
    "too many pairs": lambda content: json.dumps(content | {"pairs": {"block 0": 10**400}}),
    "pairs in a list": lambda content: json.dumps(content | {"pairs": []}),
    "pairs that are no number": lambda content: json.dumps(content | {"pairs": {"block 0": float("nan")}}),
}


@pytest.mark.parametrize("damage", DAMAGED_IDS.values(), ids=DAMAGED_IDS.keys())
def test_damaged_ids_are_refused(
    make_memo: MakeMemo, tmp_path: Path, damage: Callable[[dict[str, Any]], str]
) -> None:
    state = tmp_path / "state"
    content = json.loads(bytes_of(make_memo(*turns(*FACTS)), state)["segments.json"])
    (state / "segments.json").write_text(damage(content))
    with pytest.raises(CheckpointError):
        make_memo(state=state)


def test_a_turn_that_was_forgotten_can_be_read_again(make_memo: MakeMemo, tmp_path: Path) -> None:
    memo = make_memo(*turns(*FACTS, "word " * 5000))
    before = bytes_of(memo, tmp_path / "before")
    assert len([name for name in memo._store.sequences.matrices if name.startswith("turn 6")]) > 1
    assert memo.forget([6])
    memo.remember(turns(*FACTS, "word " * 5000))
    assert bytes_of(memo, tmp_path / "after") == before


@pytest.mark.parametrize("speaker", [None, "Ana María", " two  blanks ", "a\nnew line", "user"])
def test_who_said_it_is_no_part_of_the_text(make_memo: MakeMemo, speaker: str | None) -> None:
    memo = make_memo(*turns(*FACTS, speaker=speaker), abstain=False)
    assert memo.recall("What is my dog called?")[0].text == "My dog is called Biscuit."


def test_the_question_itself_is_no_answer(make_memo: MakeMemo) -> None:
    memo = make_memo(*turns("What is my dog called?", *FACTS), abstain=False)
    assert memo.recall("What is my dog called?")[0].text == "My dog is called Biscuit."


def test_stats_tell_how_full_the_matrices_are(make_memo: MakeMemo) -> None:
    empty, few = make_memo().stats(), make_memo(*turns(*FACTS)).stats()
    assert (empty.items, empty.extras["highest_load"], empty.extras["lowest_predicted_accuracy"]) == (
        0,
        0.0,
        1.0,
    )
    assert few.items == 5
    assert 0 < float(few.extras["highest_load"]) < 0.05
    assert few.tokens == sum(len(ByteTokenizer().encode(f"user \n{fact}")) + 1 for fact in FACTS)


def test_a_hit_says_how_sure_it_is(make_memo: MakeMemo) -> None:
    (hit, *_) = make_memo(*turns(*FACTS), abstain=False).recall("What is my dog called?")
    assert re.search(r"sequence matrix of block \d+ \(\d+% full\) regenerated it", hit.why)
    assert re.search(r"each token is right with \d+\.\d+% or more", hit.why)
