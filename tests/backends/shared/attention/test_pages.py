"""Page files: writing, deleting, merging, linking, and files that are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from memagent.backends.errors import CheckpointError
from memagent.backends.shared.attention.encoder import KeysAndValues
from memagent.backends.shared.attention.pages import PageStore
from memagent.backends.shared.attention.quantization import Precision
from tests.backends.rope_map.tiny import random_chunk

EVERY: list[Precision] = ["bf16", "int8", "int4"]
Codes = dict[int, tuple[bytes, ...]]


def store_in(folder: Path, precision: Precision = "bf16", cache_bytes: int = 1_000_000) -> PageStore:
    return PageStore(folder, precision, cache_bytes)


def chunks(*numbers: int, tokens: int = 10) -> list[tuple[int, KeysAndValues]]:
    return [(number, random_chunk(tokens + number % 3, seed=number)) for number in numbers]


def codes(folder: Path) -> Codes:
    """Read each chunk's codes of keys and values, and its values' scales, from the files."""
    stored: Codes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for number, (start, end, _) in json.loads(file.metadata()["chunks"]).items():
                names = [name for name in file.keys() if name != "keys.scale"]  # noqa: SIM118
                stored[int(number)] = tuple(
                    file.get_slice(name)[start:end].contiguous().view(torch.uint8).numpy().tobytes()
                    for name in sorted(names)
                )
    return stored


def everything(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def same(chunk: KeysAndValues, other: KeysAndValues) -> bool:
    return torch.equal(chunk.keys, other.keys) and torch.equal(chunk.values, other.values)


# writing and reading


def test_bfloat16_chunks_are_restored_bit_for_bit(tmp_path: Path) -> None:
    store, written = store_in(tmp_path / "pages"), chunks(0, 1, 2, 7)
    store.add(written[:3])
    store.add(written[3:])
    for reopened in (store, store_in(tmp_path / "pages")):
        assert reopened.chunk_numbers() == [0, 1, 2, 7]
        assert reopened.total_tokens == sum(len(tensors.keys) for _, tensors in written)
        assert all(same(reopened.get(number), tensors) for number, tensors in written)


@pytest.mark.parametrize(("precision", "most"), [("int8", 127), ("int4", 7)])
def test_quantised_chunks_are_restored_up_to_half_a_step(
    tmp_path: Path, precision: Precision, most: int
) -> None:
    store, written = store_in(tmp_path / "pages", precision), chunks(0, 1, 2)
    store.add(written)
    highest = torch.cat([tensors.keys for _, tensors in written]).float().abs().amax(0)
    for number, tensors in written:
        read = store.get(number)
        assert read.keys.dtype == torch.bfloat16
        keys = (read.keys.float() - tensors.keys.float()).abs()
        assert (keys <= highest / most * 0.51 + tensors.keys.float().abs() / 128).all()
        values = (read.values.float() - tensors.values.float()).abs()
        step = tensors.values.float().abs().amax(-1, keepdim=True) / most
        assert (values <= step * 0.51 + tensors.values.float().abs() / 128).all()


def test_fewer_bits_take_fewer_bytes(tmp_path: Path) -> None:
    sizes = []
    for precision in EVERY:
        store = store_in(tmp_path / precision, precision)
        store.add([(0, random_chunk(1000))])
        sizes.append(store.bytes_on_disk)
    assert sizes[0] > 1.8 * sizes[1] > 1.8 * 1.6 * sizes[2]


def test_many_tokens_are_spread_over_pages(tmp_path: Path) -> None:
    store = store_in(tmp_path / "pages")
    store.add([(number, random_chunk(100, seed=number, layers=1)) for number in range(50)])
    assert len(list((tmp_path / "pages").iterdir())) == 3
    assert same(store.get(49), random_chunk(100, seed=49, layers=1))
    store.add([])
    assert len(store) == 50
    assert store.chunk_numbers() == list(range(50))


def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    store_in(tmp_path / "pages").add(chunks(0))
    assert (tmp_path / "pages").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "pages").iterdir()} == {0o600}


def test_the_cache_keeps_the_chunks_read_last_and_no_more(tmp_path: Path) -> None:
    size = random_chunk(10).keys.nbytes * 2
    store = store_in(tmp_path / "pages", cache_bytes=3 * size)
    store.add([(number, random_chunk(10, seed=number)) for number in range(6)])
    held = [store.get(number) for number in (0, 1, 2)]
    assert store.bytes_cached == 3 * size
    assert store.get(0) is held[0]
    store.get(3)  # 1 was not read for the longest time
    assert store.bytes_cached == 3 * size
    assert store.get(0) is held[0]
    assert store.get(2) is held[2]
    assert store.get(1) is not held[1]
    for number in range(6):
        assert same(store.get(number), random_chunk(10, seed=number))
        assert store.bytes_cached <= 3 * size
    store.delete([5])
    assert store.bytes_cached == 2 * size


def test_a_chunk_larger_than_the_cache_is_read_all_the_same(tmp_path: Path) -> None:
    store = store_in(tmp_path / "pages", cache_bytes=1)
    store.add(chunks(0, 1))
    assert same(store.get(0), chunks(0)[0][1])
    assert same(store.get(1), chunks(1)[0][1])
    assert store.bytes_cached == random_chunk(11).keys.nbytes * 2


# deleting and merging


@pytest.mark.parametrize("precision", EVERY)
def test_deleting_removes_a_chunks_bytes_and_leaves_the_others_unchanged(
    tmp_path: Path, precision: Precision
) -> None:
    folder = tmp_path / "pages"
    store = store_in(folder, precision)
    store.add(chunks(0, 1, 2, 3))
    store.add(chunks(4, 5))
    before = codes(folder)
    kept = {number: store.get(number) for number in (0, 2, 3, 5)}
    assert all(part in everything(folder) for part in before[1])
    store.delete([1, 4, 99])
    after = codes(folder)
    assert after == {number: before[number] for number in (0, 2, 3, 5)}
    assert not any(part in everything(folder) for number in (1, 4) for part in before[number])
    for reopened in (store, store_in(folder, precision)):
        assert reopened.chunk_numbers() == [0, 2, 3, 5]
        assert all(same(reopened.get(number), tensors) for number, tensors in kept.items())
        with pytest.raises(KeyError):
            reopened.get(1)


def test_deleting_everything_leaves_no_file(tmp_path: Path) -> None:
    store = store_in(tmp_path / "pages")
    store.add(chunks(0, 1))
    store.add(chunks(2))
    store.delete([0, 1, 2])
    assert list((tmp_path / "pages").iterdir()) == []
    assert (len(store), store.total_tokens, store.bytes_on_disk) == (0, 0, 0)
    store.add(chunks(0))
    assert same(store.get(0), chunks(0)[0][1])


def test_a_deleted_chunk_can_be_written_again_under_its_number(tmp_path: Path) -> None:
    store = store_in(tmp_path / "pages", "int8")
    store.add(chunks(0, 1, 2))
    store.get(1)
    store.delete([1])
    store.add([(1, random_chunk(5, seed=77))])
    assert len(store.get(1).keys) == 5
    reopened = store_in(tmp_path / "pages", "int8")
    assert reopened.chunk_numbers() == [0, 1, 2]
    assert same(reopened.get(1), store.get(1))


@pytest.mark.parametrize("precision", EVERY)
def test_merging_small_files_keeps_every_code(tmp_path: Path, precision: Precision) -> None:
    folder = tmp_path / "pages"
    store = store_in(folder, precision)
    for first in range(0, 18, 3):
        store.add(chunks(first, first + 1, first + 2))
    store.delete([4, 9, 10, 11])
    before, kept = codes(folder), {number: store.get(number) for number in store.chunk_numbers()}
    assert store.compact() == (5, 1)
    assert codes(folder) == before
    for reopened in (store, store_in(folder, precision, cache_bytes=1)):
        assert all(same(reopened.get(number), tensors) for number, tensors in kept.items())
    assert store.compact() == (1, 1)
    # Scales are still those of the chunks they were made with.
    store.delete([0, 17])
    store.add(chunks(20))
    store.compact()
    for number in set(kept) - {0, 17}:
        assert same(store_in(folder, precision).get(number), kept[number])


def test_full_pages_are_unchanged_and_merged_ones_are_no_larger_than_a_page(tmp_path: Path) -> None:
    store = store_in(tmp_path / "pages")
    store.add([(0, random_chunk(2000, layers=1))])
    full = next((tmp_path / "pages").iterdir())
    before = full.stat().st_ino
    for number in range(1, 6):
        store.add([(number, random_chunk(900, seed=number, layers=1))])
    assert store.compact() == (6, 4)
    assert full.stat().st_ino == before
    assert all(same(store.get(number), random_chunk(900, seed=number, layers=1)) for number in range(1, 6))


# linking


@pytest.mark.parametrize("linked", [True, False])
def test_a_linked_state_stays_unchanged(
    tmp_path: Path, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("no hard links here")

    store = store_in(tmp_path / "pages")
    store.add(chunks(0, 1, 2))
    store.add(chunks(3))
    if not linked:
        monkeypatch.setattr(os, "link", refuse)
    store.link_into(tmp_path / "shared")
    mine, theirs = (
        {path.name: path.stat().st_ino for path in (tmp_path / name).iterdir()}
        for name in ("pages", "shared")
    )
    assert mine.keys() == theirs.keys()
    assert (mine == theirs) == linked
    before = {path: path.read_bytes() for path in (tmp_path / "shared").iterdir()}
    store.delete([1])
    store.compact()
    store.add(chunks(4))
    store.delete([3])
    assert {path: path.read_bytes() for path in (tmp_path / "shared").iterdir()} == before
    shared = store_in(tmp_path / "shared")
    assert shared.chunk_numbers() == [0, 1, 2, 3]
    assert same(shared.get(1), chunks(1)[0][1])


# files that are no pages


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 100, b"\xff" * 8 + b"{}"], ids=["empty", "garbage", "header"]
)
def test_a_file_that_is_no_page_is_refused(tmp_path: Path, content: bytes) -> None:
    store_in(tmp_path / "pages").add(chunks(0))
    (tmp_path / "pages" / "0000000009-0001.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="0000000009"):
        store_in(tmp_path / "pages")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    store_in(tmp_path / "pages").add(chunks(0))
    (path,) = (tmp_path / "pages").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=path.name):
        store_in(tmp_path / "pages")


def test_a_page_of_another_precision_is_refused(tmp_path: Path) -> None:
    store_in(tmp_path / "pages", "int8").add(chunks(0))
    with pytest.raises(CheckpointError, match="not a page of precision int4"):
        store_in(tmp_path / "pages", "int4")


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_file_damaged_while_it_is_in_use_is_refused(tmp_path: Path, damage: str) -> None:
    store = store_in(tmp_path / "pages")
    store.add(chunks(0))
    (path,) = (tmp_path / "pages").iterdir()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=path.name):
        store.get(0)


def test_a_file_without_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    save_file({"keys.codes": torch.zeros(1, 1, 1, 2)}, tmp_path / "pages" / "0-1.safetensors")
    with pytest.raises(CheckpointError):
        store_in(tmp_path / "pages")


@pytest.mark.parametrize("table", ["{", '{"0": [1]}', '{"x": [0, 1, 0]}'])
def test_a_file_without_a_sound_table_is_refused(tmp_path: Path, table: str) -> None:
    (tmp_path / "pages").mkdir()
    metadata = {"precision": "bf16", "chunks": table}
    save_file({"keys.codes": torch.zeros(1, 1, 1, 2)}, tmp_path / "pages" / "0-1.safetensors", metadata)
    with pytest.raises(CheckpointError):
        store_in(tmp_path / "pages")
