"""Stored states: the same bytes, the same memory, and damage that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from memagent.backends.neural.memo import StateError, load, regenerate, save
from memagent.backends.neural.memo.memory import MeMoMemory
from tests.backends.neural.memo.texts import memory_of, random_texts, state


@pytest.fixture
def memory() -> MeMoMemory:
    memory = memory_of(dim=64, composition="retrieved")
    memory.memorise(random_texts(5, 20))
    return memory


@pytest.mark.parametrize("composition", ["bound", "computed", "retrieved"])
def test_a_stored_memory_continues(composition: str, tmp_path: Path) -> None:
    texts = random_texts(10, 20)
    memory = memory_of(composition=composition)
    memory.memorise(texts)
    save(memory, tmp_path / "a.safetensors")
    restored = load(tmp_path / "a.safetensors")
    assert restored.settings == memory.settings
    assert state(restored) == state(memory)
    assert restored.tokens == memory.tokens
    prompts = [text[:4] for text in texts]
    assert regenerate(restored, prompts, limit=16) == regenerate(memory, prompts, limit=16)
    restored.forget(texts[:5])
    memory.forget(texts[:5])
    for number, each in enumerate((restored, memory)):
        save(each, tmp_path / f"{number}.safetensors")
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()


def test_damage_anywhere_is_refused(memory: MeMoMemory, tmp_path: Path) -> None:
    path, damaged = tmp_path / "good.safetensors", tmp_path / "damaged.safetensors"
    save(memory, path)
    content = path.read_bytes()
    places = [0, 8, 9, 40, *range(len(content) // 20, len(content), len(content) // 20), len(content) - 1]
    for place in places:
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(StateError, match=r"damaged\.safetensors"):
            load(damaged)
    for length in (0, 7, 100, len(content) - 1):
        damaged.write_bytes(content[:length])
        with pytest.raises(StateError, match=r"damaged\.safetensors is damaged, or no state"):
            load(damaged)


def test_a_missing_file_is_not_an_empty_memory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.safetensors")


def test_other_files_and_formats_are_refused(memory: MeMoMemory, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(StateError, match="no state of a MeMo memory: 'memo'"):
        load(path)
    save(memory, path)
    tensors = load_file(path)
    head = {"format": 2, "settings": {}, "sha256": ""}
    save_file(tensors, path, metadata={"memo": json.dumps(head)})
    with pytest.raises(StateError, match="expected to have format 1 rather than 2"):
        load(path)
    settings = {"vocab_size": 5000, "dim": 128, "composition": "retrieved"}
    save_file(tensors, path, metadata={"memo": json.dumps({**head, "format": 1, "settings": settings})})
    with pytest.raises(StateError, match="intermediate, last have another type or shape"):
        load(path)


def test_counts_out_of_order_are_refused(memory: MeMoMemory, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save(memory, path)
    tensors = load_file(path)
    head = {"format": 1, "settings": memory.settings.__dict__, "sha256": ""}
    tensors["hashes"] = tensors["hashes"].flip(0)
    save_file(tensors, path, metadata={"memo": json.dumps(head)})
    with pytest.raises(StateError, match="not in order"):
        load(path)
