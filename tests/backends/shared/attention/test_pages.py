"""Page files: what is written, forgotten, joined, shared and refused."""

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
from tests.backends.rope_map.tiny import drawn

EVERY: list[Precision] = ["bf16", "int8", "int4"]
Codes = dict[int, tuple[bytes, ...]]


def store_in(folder: Path, precision: Precision = "bf16", cache_bytes: int = 1_000_000) -> PageStore:
    return PageStore(folder, precision, cache_bytes)


def pieces(*numbers: int, tokens: int = 10) -> list[tuple[int, KeysAndValues]]:
    return [(number, drawn(tokens + number % 3, seed=number)) for number in numbers]


def codes(folder: Path) -> Codes:
    """Read what the files say of each piece: codes of its keys and values, and its values' scales."""
    found: Codes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for number, (start, end, _) in json.loads(file.metadata()["pieces"]).items():
                names = [name for name in file.keys() if name != "keys.scale"]  # noqa: SIM118
                found[int(number)] = tuple(
                    file.get_slice(name)[start:end].contiguous().view(torch.uint8).numpy().tobytes()
                    for name in sorted(names)
                )
    return found


def everything(folder: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def same(one: KeysAndValues, other: KeysAndValues) -> bool:
    return torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


# writing and reading


def test_bfloat16_pieces_come_back_bit_for_bit(tmp_path: Path) -> None:
    store, written = store_in(tmp_path / "pages"), pieces(0, 1, 2, 7)
    store.add(written[:3])
    store.add(written[3:])
    for reopened in (store, store_in(tmp_path / "pages")):
        assert reopened.pieces() == [0, 1, 2, 7]
        assert reopened.tokens == sum(len(found.keys) for _, found in written)
        assert all(same(reopened.get(number), found) for number, found in written)


@pytest.mark.parametrize(("precision", "most"), [("int8", 127), ("int4", 7)])
def test_quantised_pieces_come_back_up_to_half_a_step(
    tmp_path: Path, precision: Precision, most: int
) -> None:
    store, written = store_in(tmp_path / "pages", precision), pieces(0, 1, 2)
    store.add(written)
    highest = torch.cat([found.keys for _, found in written]).float().abs().amax(0)
    for number, found in written:
        read = store.get(number)
        assert read.keys.dtype == torch.bfloat16
        keys = (read.keys.float() - found.keys.float()).abs()
        assert (keys <= highest / most * 0.51 + found.keys.float().abs() / 128).all()
        values = (read.values.float() - found.values.float()).abs()
        step = found.values.float().abs().amax(-1, keepdim=True) / most
        assert (values <= step * 0.51 + found.values.float().abs() / 128).all()


def test_fewer_bits_take_fewer_bytes(tmp_path: Path) -> None:
    sizes = []
    for precision in EVERY:
        store = store_in(tmp_path / precision, precision)
        store.add([(0, drawn(1000))])
        sizes.append(store.bytes_on_disk)
    assert sizes[0] > 1.8 * sizes[1] > 1.8 * 1.6 * sizes[2]


def test_many_tokens_are_spread_over_pages(tmp_path: Path) -> None:
    store = store_in(tmp_path / "pages")
    store.add([(number, drawn(100, seed=number, layers=1)) for number in range(50)])
    assert len(list((tmp_path / "pages").iterdir())) == 3
    assert same(store.get(49), drawn(100, seed=49, layers=1))
    store.add([])
    assert len(store) == 50
    assert store.pieces() == list(range(50))


def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    store_in(tmp_path / "pages").add(pieces(0))
    assert (tmp_path / "pages").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "pages").iterdir()} == {0o600}


def test_the_cache_keeps_what_was_read_lately_and_no_more(tmp_path: Path) -> None:
    one = drawn(10).keys.nbytes * 2
    store = store_in(tmp_path / "pages", cache_bytes=3 * one)
    store.add([(number, drawn(10, seed=number)) for number in range(6)])
    held = [store.get(number) for number in (0, 1, 2)]
    assert store.bytes_cached == 3 * one
    assert store.get(0) is held[0]
    store.get(3)  # 1 was not read for the longest time
    assert store.bytes_cached == 3 * one
    assert store.get(0) is held[0]
    assert store.get(2) is held[2]
    assert store.get(1) is not held[1]
    for number in range(6):
        assert same(store.get(number), drawn(10, seed=number))
        assert store.bytes_cached <= 3 * one
    store.forget([5])
    assert store.bytes_cached == 2 * one


def test_a_piece_larger_than_the_cache_is_read_all_the_same(tmp_path: Path) -> None:
    store = store_in(tmp_path / "pages", cache_bytes=1)
    store.add(pieces(0, 1))
    assert same(store.get(0), pieces(0)[0][1])
    assert same(store.get(1), pieces(1)[0][1])
    assert store.bytes_cached == drawn(11).keys.nbytes * 2


# forgetting and joining


@pytest.mark.parametrize("precision", EVERY)
def test_forgetting_takes_a_pieces_bytes_and_leaves_the_others_as_they_are(
    tmp_path: Path, precision: Precision
) -> None:
    folder = tmp_path / "pages"
    store = store_in(folder, precision)
    store.add(pieces(0, 1, 2, 3))
    store.add(pieces(4, 5))
    before = codes(folder)
    kept = {number: store.get(number) for number in (0, 2, 3, 5)}
    assert all(part in everything(folder) for part in before[1])
    store.forget([1, 4, 99])
    after = codes(folder)
    assert after == {number: before[number] for number in (0, 2, 3, 5)}
    assert not any(part in everything(folder) for gone in (1, 4) for part in before[gone])
    for reopened in (store, store_in(folder, precision)):
        assert reopened.pieces() == [0, 2, 3, 5]
        assert all(same(reopened.get(number), found) for number, found in kept.items())
        with pytest.raises(KeyError):
            reopened.get(1)


def test_forgetting_everything_leaves_no_file(tmp_path: Path) -> None:
    store = store_in(tmp_path / "pages")
    store.add(pieces(0, 1))
    store.add(pieces(2))
    store.forget([0, 1, 2])
    assert list((tmp_path / "pages").iterdir()) == []
    assert (len(store), store.tokens, store.bytes_on_disk) == (0, 0, 0)
    store.add(pieces(0))
    assert same(store.get(0), pieces(0)[0][1])


def test_a_forgotten_piece_can_be_written_anew_under_its_number(tmp_path: Path) -> None:
    store = store_in(tmp_path / "pages", "int8")
    store.add(pieces(0, 1, 2))
    store.get(1)
    store.forget([1])
    store.add([(1, drawn(5, seed=77))])
    assert len(store.get(1).keys) == 5
    reopened = store_in(tmp_path / "pages", "int8")
    assert reopened.pieces() == [0, 1, 2]
    assert same(reopened.get(1), store.get(1))


@pytest.mark.parametrize("precision", EVERY)
def test_joining_small_files_keeps_every_code(tmp_path: Path, precision: Precision) -> None:
    folder = tmp_path / "pages"
    store = store_in(folder, precision)
    for first in range(0, 18, 3):
        store.add(pieces(first, first + 1, first + 2))
    store.forget([4, 9, 10, 11])
    before, kept = codes(folder), {number: store.get(number) for number in store.pieces()}
    assert store.compact() == (5, 1)
    assert codes(folder) == before
    for reopened in (store, store_in(folder, precision, cache_bytes=1)):
        assert all(same(reopened.get(number), found) for number, found in kept.items())
    assert store.compact() == (1, 1)
    # Scales are still those of the pieces they were made with.
    store.forget([0, 17])
    store.add(pieces(20))
    store.compact()
    for number in set(kept) - {0, 17}:
        assert same(store_in(folder, precision).get(number), kept[number])


def test_full_pages_are_left_alone_and_joined_ones_are_no_larger_than_a_page(tmp_path: Path) -> None:
    store = store_in(tmp_path / "pages")
    store.add([(0, drawn(2000, layers=1))])
    full = next((tmp_path / "pages").iterdir())
    before = full.stat().st_ino
    for number in range(1, 6):
        store.add([(number, drawn(900, seed=number, layers=1))])
    assert store.compact() == (6, 4)
    assert full.stat().st_ino == before
    assert all(same(store.get(number), drawn(900, seed=number, layers=1)) for number in range(1, 6))


# sharing


@pytest.mark.parametrize("linked", [True, False])
def test_a_shared_state_stays_as_it_is(tmp_path: Path, linked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("no hard links here")

    store = store_in(tmp_path / "pages")
    store.add(pieces(0, 1, 2))
    store.add(pieces(3))
    if not linked:
        monkeypatch.setattr(os, "link", refuse)
    store.share(tmp_path / "shared")
    mine, theirs = (
        {path.name: path.stat().st_ino for path in (tmp_path / name).iterdir()}
        for name in ("pages", "shared")
    )
    assert mine.keys() == theirs.keys()
    assert (mine == theirs) == linked
    before = {path: path.read_bytes() for path in (tmp_path / "shared").iterdir()}
    store.forget([1])
    store.compact()
    store.add(pieces(4))
    store.forget([3])
    assert {path: path.read_bytes() for path in (tmp_path / "shared").iterdir()} == before
    shared = store_in(tmp_path / "shared")
    assert shared.pieces() == [0, 1, 2, 3]
    assert same(shared.get(1), pieces(1)[0][1])


# what is no page


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 100, b"\xff" * 8 + b"{}"], ids=["empty", "garbage", "header"]
)
def test_a_file_that_is_none_of_its_own_is_refused(tmp_path: Path, content: bytes) -> None:
    store_in(tmp_path / "pages").add(pieces(0))
    (tmp_path / "pages" / "0000000009-0001.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="0000000009"):
        store_in(tmp_path / "pages")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    store_in(tmp_path / "pages").add(pieces(0))
    (path,) = (tmp_path / "pages").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=path.name):
        store_in(tmp_path / "pages")


def test_a_page_of_another_precision_is_refused(tmp_path: Path) -> None:
    store_in(tmp_path / "pages", "int8").add(pieces(0))
    with pytest.raises(CheckpointError, match="no page of precision int4"):
        store_in(tmp_path / "pages", "int4")


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_file_damaged_under_way_is_refused(tmp_path: Path, damage: str) -> None:
    store = store_in(tmp_path / "pages")
    store.add(pieces(0))
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
    told = {"precision": "bf16", "pieces": table}
    save_file({"keys.codes": torch.zeros(1, 1, 1, 2)}, tmp_path / "pages" / "0-1.safetensors", told)
    with pytest.raises(CheckpointError):
        store_in(tmp_path / "pages")
