"""The vector index: embedded in a folder, and on a real Chroma server in another process."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from memagent.agent.memory import Memory
from memagent.backends.errors import CheckpointError, SettingError, StorageError
from memagent.backends.protocol import Vectors
from memagent.backends.rag import vectors
from memagent.backends.rag.vectors import VectorIndex
from tests.backends.turns import bytes_below

DIMENSION = 24
OpenMemory = Callable[..., Memory]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[VectorIndex]:
    opened = VectorIndex(tmp_path / "chroma")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chroma_server(tmp_path_factory.mktemp("server")) as (url, _):
        yield url


@pytest.fixture
def server(shared_server: str, sessions_closed: None) -> str:
    """The URL of a Chroma server that this module's tests share."""
    return shared_server


@pytest.fixture
def sessions_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Chroma's client close its HTTP session when it is closed, which it forgets to do."""
    from chromadb.api.fastapi import FastAPI

    monkeypatch.setattr(FastAPI, "stop", lambda api: api._session.close())


@contextmanager
def chroma_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    program = Path(sys.executable).with_name("chroma")
    if not program.exists():
        pytest.skip("the program chroma is not beside this Python")
    port = free_port()
    process = subprocess.Popen(
        [str(program), "run", "--host", "127.0.0.1", "--port", str(port), "--path", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/api/v2/heartbeat", timeout=1.0).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    pytest.skip("a Chroma server does not start here")


def unit(seed: int, count: int) -> Vectors:
    """Random unit vectors ``[count, DIMENSION]``."""
    drawn = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    made: Vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return made


def seconds_to_fail(place: str, error: type[Exception], match: str) -> float:
    began = time.monotonic()
    with pytest.raises(error, match=match):
        VectorIndex(place)
    return time.monotonic() - began


# in a folder


def test_an_empty_index_knows_nothing(index: VectorIndex) -> None:
    assert index.count() == 0
    assert index.nearest(unit(0, 1)[0], 5) == {}
    assert index.get(["1:0"]) == {}
    assert index.missing(["1:0"]) == ["1:0"]


def test_what_was_added_is_there_and_nothing_else(index: VectorIndex) -> None:
    rows = unit(1, 3)
    index.add(["1:0", "1:0/0", "2:0"], rows)
    assert index.count() == 3
    assert index.missing(["2:0", "9:0", "1:0", "8:0"]) == ["9:0", "8:0"]
    found = index.get(["2:0", "1:0", "7:0"])
    assert set(found) == {"1:0", "2:0"}
    np.testing.assert_allclose(found["2:0"], rows[2], atol=1e-6)


def test_adding_a_key_again_replaces_its_vector(index: VectorIndex) -> None:
    old, new = unit(2, 2)
    index.add(["1:0"], old[None])
    index.add(["1:0"], new[None])
    assert index.count() == 1
    assert index.nearest(new, 1) == {"1:0": pytest.approx(1.0, abs=1e-5)}


def test_the_nearest_are_those_of_an_exact_search(index: VectorIndex) -> None:
    rows = unit(3, 300)
    index.add([f"{number}:0" for number in range(300)], rows)
    for query in unit(4, 10):
        cosines = rows @ query
        exact = [int(place) for place in np.argsort(-cosines)[:10]]
        found = index.nearest(query, 10)
        assert list(found) == [f"{place}:0" for place in exact]
        assert list(found.values()) == pytest.approx([float(cosines[place]) for place in exact], abs=1e-5)


def test_a_vector_is_not_likelier_than_itself(index: VectorIndex) -> None:
    rows = unit(5, 50)
    index.add([str(number) for number in range(50)], rows)
    assert max(cosine for row in rows for cosine in index.nearest(row, 5).values()) <= 1.0


def test_asking_for_more_than_there_are_returns_all(index: VectorIndex) -> None:
    index.add(["1:0", "2:0"], unit(6, 2))
    assert set(index.nearest(unit(7, 1)[0], 300)) == {"1:0", "2:0"}


def test_more_than_one_batch_is_added_read_and_deleted(index: VectorIndex) -> None:
    keys = [f"{number}:0" for number in range(2100)]
    index.add(keys, unit(8, 2100))
    assert index.count() == 2100
    assert index.missing([*keys, "none"]) == ["none"]
    assert len(index.get(keys)) == 2100
    index.delete(keys[:2050])
    assert sorted(index.get(keys)) == sorted(keys[2050:])


def test_deleted_vectors_are_not_found_and_unknown_keys_do_not_matter(index: VectorIndex) -> None:
    rows = unit(9, 5)
    index.add(["a", "b", "c", "d", "e"], rows)
    index.delete(["a", "unknown"])
    index.delete([])
    assert index.count() == 4
    assert "a" not in index.nearest(rows[0], 5)


def test_a_rewrite_keeps_the_rest_and_removes_the_bytes_of_what_was_deleted(
    index: VectorIndex, tmp_path: Path
) -> None:
    rows = unit(10, 1200)
    index.add([f"{number}:0" for number in range(1200)], rows)
    gone = rows[7].tobytes()
    assert gone in bytes_below(tmp_path)
    index.delete(["7:0"])
    index.rewrite()
    assert gone not in bytes_below(tmp_path)
    assert index.count() == 1199
    np.testing.assert_allclose(index.get(["8:0"])["8:0"], rows[8], atol=1e-6)


def test_a_rewrite_of_what_was_emptied_leaves_it_usable(index: VectorIndex) -> None:
    rows = unit(11, 2)
    index.add(["a", "b"], rows)
    index.delete(["a", "b"])
    index.rewrite()
    assert index.count() == 0
    index.add(["c"], rows[:1])
    assert list(index.nearest(rows[0], 1)) == ["c"]


def test_a_folder_is_read_again_and_copied_whole(index: VectorIndex, tmp_path: Path) -> None:
    rows = unit(12, 3)
    index.add(["a", "b"], rows[:2])
    index.copy_to(tmp_path / "copy")
    index.add(["c"], rows[2:])
    assert index.count() == 3
    copy = VectorIndex(tmp_path / "copy")
    assert copy.missing(["a", "b", "c"]) == ["c"]
    copy.close()


def test_files_that_are_not_chromas_are_refused(tmp_path: Path) -> None:
    (tmp_path / "chroma").mkdir()
    (tmp_path / "chroma" / "chroma.sqlite3").write_bytes(b"not a database at all" * 100)
    with pytest.raises(CheckpointError, match="Chroma cannot"):
        VectorIndex(tmp_path / "chroma")


# on a server


@pytest.mark.parametrize("url", ["ftp://host:8000", "localhost:8000", "http://", "chroma", "https:///path"])
def test_a_url_of_wrong_form_is_refused_before_anything_is_asked(url: str) -> None:
    assert seconds_to_fail(url, SettingError, "expected http://host:port or https://host") < 5


@pytest.mark.parametrize("url", ["http://host:port", "http://host:99999", "http://[::1"])
def test_a_url_with_an_impossible_port_or_host_is_refused(url: str) -> None:
    assert seconds_to_fail(url, SettingError, "is not a Chroma server's address") < 5


def test_an_unreachable_server_is_an_error_soon() -> None:
    assert seconds_to_fail("http://127.0.0.1:9", StorageError, "chroma run --host 127.0.0.1 --port 9 ") < 10


def test_a_mute_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_SERVER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        assert seconds_to_fail(url, StorageError, "does not answer") < 5


def test_collections_on_one_server_do_not_mix(server: str) -> None:
    rows = unit(13, 2)
    ana, ben = VectorIndex(server, "memagent-ana"), VectorIndex(server, "memagent-ben")
    ana.add(["1:0"], rows[:1])
    ben.add(["1:0", "2:0"], rows)
    assert (ana.count(), ben.count()) == (1, 2)
    ben.delete(["1:0"])
    ben.rewrite()
    assert ana.get(["1:0"])["1:0"] == pytest.approx(rows[0], abs=1e-6)
    ana.close()
    ben.close()


def test_the_whole_backend_lives_on_a_server(server: str, open_memory: OpenMemory, tmp_path: Path) -> None:
    settings = {"url": server}
    memory = open_memory("ana", "rag", settings)
    memory.remember("monday", "user", "My dog is called Biscuit.")
    memory.remember("monday", "user", "I live in Porto, and my sister lives in Lisbon.")
    memory.checkpoint()
    memory.close()
    assert not list(tmp_path.rglob("chroma*"))

    memory = open_memory("ana", "rag", settings, strict=True)
    assert [item.text for item in memory.recall("What is my dog called?")] == ["My dog is called Biscuit."]
    assert memory.stats().extras["vectors"] == 4
    memory.journal.forget([1])
    assert memory.recall("What is my dog called?") == []
    assert memory.stats().extras["vectors"] == 3
    memory.close()

    other = open_memory("ben", "rag", settings | {"abstain": "false"})
    other.remember("monday", "user", "My dog is called Rex.")
    assert [item.text for item in other.recall("dog sister Porto")] == ["My dog is called Rex."]


def test_a_server_that_lost_its_vectors_is_given_them_again(server: str, open_memory: OpenMemory) -> None:
    import chromadb

    memory = open_memory("cleo", "rag", {"url": server})
    memory.remember("monday", "user", "My dog is called Biscuit.")
    memory.checkpoint()
    memory.close()
    client = chromadb.HttpClient(host="127.0.0.1", port=int(server.rpartition(":")[2]))
    for collection in client.list_collections():
        client.delete_collection(collection.name)
    client.close()  # type: ignore[attr-defined]
    memory = open_memory("cleo", "rag", {"url": server}, strict=True)
    assert memory.stats().extras["vectors"] == 1
    assert [item.seqs for item in memory.recall("What is my dog called?")] == [(1,)]


def test_a_server_that_stops_answering_is_a_storage_error(
    sessions_closed: None, open_memory: OpenMemory, tmp_path: Path
) -> None:
    with chroma_server(tmp_path / "server") as (url, process):
        memory = open_memory("ana", "rag", {"url": url})
        memory.remember("monday", "user", "My dog is called Biscuit.")
        process.terminate()
        process.wait(10)
        with pytest.raises(StorageError, match="The journal is kept apart"):
            memory.recall("What is my dog called?")
        with pytest.raises(StorageError, match="The journal is kept apart"):
            memory.remember("monday", "user", "I live in Porto.")
        assert [turn.text for turn in memory.journal.turns()][-1] == "I live in Porto."


def test_index_files_hold_no_freed_memory(tmp_path: Path) -> None:
    index = VectorIndex(tmp_path / "chroma")
    index.add(["1:0"], np.eye(1, 64, dtype=np.float32))
    (data,) = (tmp_path / "chroma").glob("*/data_level0.bin")
    assert data.stat().st_size > 0
    assert not any(data.read_bytes())
    data.write_bytes(b"the text of a forgotten turn".ljust(data.stat().st_size, b"x"))
    index.add(["2:0"], np.eye(1, 64, 1, dtype=np.float32))
    assert not any(data.read_bytes())
    nearest = index.nearest(np.eye(1, 64, 1, dtype=np.float32)[0], 2)
    assert next(iter(nearest)) == "2:0"
    index.close()


def test_what_is_nearest_follows_every_change(index: VectorIndex) -> None:
    first, second = np.eye(DIMENSION, dtype=np.float32)[:2]
    index.add(["a"], first[None])
    assert index.nearest(first, 2) == {"a": 1.0}
    index.add(["b"], second[None])
    assert index.nearest(second, 2) == {"b": 1.0, "a": 0.0}
    index.add(["a"], second[None])
    assert index.nearest(second, 2) == {"a": 1.0, "b": 1.0}
    index.delete(["b"])
    index.rewrite()
    assert index.nearest(second, 2) == {"a": 1.0}
