"""Stored states: verified byte by byte, replaced in one step, refused when foreign or damaged."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.journal import Extent
from memagent.agent.memory import state_files
from memagent.agent.memory.checkpoint import Checkpoint, CheckpointStore, Position
from memagent.backends.errors import CheckpointError, StorageError
from memagent.backends.protocol import Fingerprint

FINGERPRINT: Fingerprint = {"backend": "in_memory", "format": 1, "model": "abc"}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "backend")


def save(directory: Path) -> None:
    (directory / "turns.json").write_text('["hello"]')
    (directory / "index" / "deep").mkdir(parents=True)
    (directory / "index" / "deep" / "vectors.bin").write_bytes(bytes(range(256)) * 300)
    (directory / "empty.bin").touch()


def write(
    store: CheckpointStore, seq: int = 7, how: Callable[[Path], None] = save, forgetting: int = 2
) -> Checkpoint:
    return store.write(
        how, user="ana", fingerprint=FINGERPRINT, extent=Extent(seq, "a" * 64, forgetting, "b" * 64)
    )


def verify(store: CheckpointStore) -> Checkpoint | None:
    checkpoint = store.inspect()
    if checkpoint is not None:
        checkpoint.check_fingerprint(FINGERPRINT)
    return checkpoint


def generations(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir() if path.is_dir())


def sign(store: CheckpointStore, manifest: bytes) -> None:
    """Let the pointer vouch for a manifest."""
    (store.folder / "CURRENT").write_text(f"000001 {hashlib.sha256(manifest).hexdigest()}")


def edit_manifest(checkpoint: Checkpoint, **changed: object) -> bytes:
    path = checkpoint.directory / "manifest.json"
    fields: dict[str, Any] = json.loads(path.read_text())
    content = json.dumps(fields | changed).encode()
    path.write_bytes(content)
    return content


def test_nothing_is_stored_at_first(store: CheckpointStore) -> None:
    assert (store.current(), store.inspect(), verify(store)) == (None, None, None)


def test_what_was_written_is_verified(store: CheckpointStore) -> None:
    stored = write(store)
    checkpoint = verify(CheckpointStore(store.folder))
    assert checkpoint == stored
    assert checkpoint.position == Position(7, 2)
    assert (checkpoint.user, dict(checkpoint.fingerprint)) == ("ana", FINGERPRINT)
    assert (checkpoint.directory / "index" / "deep" / "vectors.bin").read_bytes() == bytes(range(256)) * 300
    assert len(checkpoint.manifest_sha256) == 64


def test_a_backend_that_saves_no_file_has_a_state_too(store: CheckpointStore) -> None:
    write(store, seq=3, how=lambda directory: None)
    checkpoint = verify(store)
    assert checkpoint is not None
    assert checkpoint.position.seq == 3


@pytest.mark.parametrize("file", ["turns.json", "index/deep/vectors.bin"])
@pytest.mark.parametrize("place", [0, -1])
def test_one_flipped_bit_is_found(file: str, place: int, store: CheckpointStore) -> None:
    path = write(store).directory / file
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        verify(store)


def test_a_file_cut_short_is_found(store: CheckpointStore) -> None:
    path = write(store).directory / "turns.json"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"1 of its files.*turns\.json"):
        verify(store)


@pytest.mark.parametrize("file", ["turns.json", "index/deep/vectors.bin", "empty.bin"])
def test_a_removed_file_is_found(file: str, store: CheckpointStore) -> None:
    (write(store).directory / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        verify(store)


@pytest.mark.parametrize("file", ["turns.json-wal", "index/deep/more.bin", "index/manifest.json"])
def test_an_extra_file_is_found(file: str, store: CheckpointStore) -> None:
    (write(store).directory / file).write_text("")
    with pytest.raises(CheckpointError, match=file):
        verify(store)


@pytest.mark.parametrize("content", [b"", b"{", b"nonsense", b"\xff\xfe", b"[]", b"null", b'{"format": 1}'])
def test_a_broken_manifest_is_refused(content: bytes, store: CheckpointStore) -> None:
    (write(store).directory / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="manifest"):
        verify(store)


def test_a_missing_manifest_or_generation_is_refused(store: CheckpointStore) -> None:
    (write(store).directory / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="manifest"):
        verify(store)
    checkpoint = write(store)
    (store.folder / "CURRENT").write_text(f"000099 {checkpoint.manifest_sha256}")
    with pytest.raises(CheckpointError, match="manifest"):
        verify(store)


@pytest.mark.parametrize(
    "changed",
    [
        {"extent": {"seq": 9, "forgetting": 2}},
        {"extent": {"line": 1}},
        {"user": "bob"},
        {"files": {}},
        {"fingerprint": None},
        {},
    ],
)
def test_a_changed_manifest_is_found(changed: dict[str, object], store: CheckpointStore) -> None:
    edit_manifest(write(store, seq=7), **changed)
    with pytest.raises(CheckpointError, match="its manifest is not what was written"):
        verify(store)


@pytest.mark.parametrize(
    "content",
    [b"", b"latest", b"../000001", b"000001", b"000001 000002", b"-1 " + b"0" * 64, b"\xff\x00"],
)
def test_a_broken_pointer_is_refused(content: bytes, store: CheckpointStore) -> None:
    write(store)
    (store.folder / "CURRENT").write_bytes(content)
    for check in (store.current, store.inspect, lambda: verify(store)):
        with pytest.raises(CheckpointError, match="CURRENT"):
            check()


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({**FINGERPRINT, "model": "xyz"}, "its model is 'abc', now it is 'xyz'"),
        ({**FINGERPRINT, "format": 2}, "its format is 1, now it is 2"),
        ({**FINGERPRINT, "width": 3}, "its width is None, now it is 3"),
        ({"backend": "in_memory", "format": 1}, "its model is 'abc', now it is None"),
    ],
)
def test_the_state_of_another_fingerprint_is_refused_with_the_difference(
    now: Fingerprint, message: str, store: CheckpointStore
) -> None:
    with pytest.raises(CheckpointError, match=message):
        write(store).check_fingerprint(now)


def test_the_pointer_vouches_for_one_manifest_only(store: CheckpointStore) -> None:
    write(store)
    (store.folder / "CURRENT").write_text(f"000001 {0:064x}")
    with pytest.raises(CheckpointError, match="not what was written"):
        verify(store)


def test_a_state_of_another_format_is_refused(store: CheckpointStore) -> None:
    sign(store, edit_manifest(write(store), format=1))
    with pytest.raises(CheckpointError, match="format 1"):
        store.inspect()


@pytest.mark.parametrize(
    "changed",
    [
        {"extent": {"seq": 9}},
        {"extent": {"seq": "9", "head": "", "forgetting": 0, "forgetting_head": ""}},
        {"extent": {"seq": -1, "head": "", "forgetting": 0, "forgetting_head": ""}},
        {"extent": None},
        {"user": 7},
        {"files": []},
        {"fingerprint": None},
        {"settings": {"abstain": True}},
        {"costly": "yes"},
    ],
)
def test_a_manifest_that_memagent_never_writes_is_refused_though_the_pointer_vouches_for_it(
    changed: dict[str, object], store: CheckpointStore
) -> None:
    sign(store, edit_manifest(write(store), **changed))
    with pytest.raises(CheckpointError, match="not one of memagent's"):
        store.read()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"7", b'{"format": 2}', b"[" * 100_000])
def test_a_manifest_of_anything_is_refused_though_the_pointer_vouches_for_it(
    content: bytes, store: CheckpointStore
) -> None:
    (write(store).directory / "manifest.json").write_bytes(content)
    sign(store, content)
    with pytest.raises(CheckpointError, match="not one of memagent's"):
        store.read()


def test_a_switch_that_cannot_be_synced_leaves_the_new_state_whole(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, seq=1)
    sync = state_files.sync

    def failing(path: Path) -> None:
        if path == store.folder and (store.folder / "CURRENT").read_text().startswith("000002"):
            raise OSError(errno.EIO, "Input/output error")
        sync(path)

    monkeypatch.setattr(state_files, "sync", failing)
    with pytest.raises(StorageError, match="Input/output error"):
        write(store, seq=2)
    checkpoint = verify(store)
    assert checkpoint is not None
    assert checkpoint.position.seq == 2


def test_a_new_state_replaces_the_old_one(store: CheckpointStore) -> None:
    names = [write(store, seq).directory.name for seq in (1, 2, 3)]
    assert names == ["000001", "000002", "000003"]
    assert generations(store) == ["000003"]
    checkpoint = verify(store)
    assert checkpoint is not None
    assert checkpoint.position.seq == 3
    assert sorted(path.name for path in store.folder.iterdir()) == ["000003", "CURRENT"]


def test_a_save_that_fails_leaves_the_old_state_current(store: CheckpointStore) -> None:
    old = write(store, seq=1)

    def full_disk(directory: Path) -> None:
        save(directory)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="No space left on device"):
        write(store, seq=2, how=full_disk)
    assert verify(store) == old
    assert generations(store) == ["000001"]
    assert write(store, seq=3).position.seq == 3


def test_a_first_save_that_fails_leaves_nothing(store: CheckpointStore) -> None:
    def full_disk(directory: Path) -> None:
        (directory / "part").write_text("half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="still has every turn"):
        write(store, how=full_disk)
    assert (store.current(), generations(store)) == (None, [])


def test_a_save_that_breaks_otherwise_leaves_nothing_either(store: CheckpointStore) -> None:
    def broken(directory: Path) -> None:
        (directory / "part").write_text("half of it")
        raise RuntimeError("a database's own error")

    with pytest.raises(RuntimeError):
        write(store, how=broken)
    assert generations(store) == []


def test_what_a_killed_save_left_is_neither_trusted_nor_kept(store: CheckpointStore) -> None:
    old = write(store, seq=1)
    half = store.folder / "000007"
    half.mkdir()
    (half / "turns.json").write_text("[")
    assert verify(store) == old
    assert write(store, seq=2).directory.name == "000008"
    assert generations(store) == ["000008"]


def test_discarding_removes_every_state_and_can_be_repeated(store: CheckpointStore) -> None:
    write(store)
    (store.folder / "000004").mkdir()
    store.discard()
    store.discard()
    assert (store.current(), list(store.folder.iterdir())) == (None, [])
