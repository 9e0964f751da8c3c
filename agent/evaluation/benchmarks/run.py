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
from typing import Any, Self

from filelock import FileLock, Timeout

import memagent
from memagent.agent.engine.conversation import Channel
from memagent.agent.evaluation.datasets.dataset import Dataset
from memagent.agent.fields import json_text
from memagent.agent.files import make_private
from memagent.backends import registry
from memagent.backends.errors import BusyError, StorageError

Row = dict[str, Any]
Key = tuple[str, str, str, str]
_PACKAGES = ("torch", "transformers", "chromadb", "numpy", "langchain-core")


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        backends: names with their settings.
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

    def fields(self) -> dict[str, Any]:
        """What the figures depend on, as JSON can hold it."""
        return {
            "benchmark": self.dataset.name,
            "data": {
                "file": self.dataset.path.name,
                "sha256": self.dataset.sha256,
                "cases": self.dataset.cases,
                "turns": self.dataset.turns,
                "questions": len(self.dataset.questions),
            },
            "backends": {name: dict(its) for name, its in self.backends.items()},
            "embedder": self.embedder,
            "seed": self.seed,
            "sample": self.sample,
            "answers": {"channel": self.channel} if self.answers else None,
            "model": self.model if self.answers or self._inside_a_model() else None,
            "versions": versions(),
            "code": code_digest(),
        }

    def _inside_a_model(self) -> bool:
        return any("local_model" in registry.get(name).needs for name in self.backends)


class Run:
    """A run's folder, held by one process.

    Raises:
        BusyError: another process measures the same thing.
        StorageError: the folder cannot be made, or its record is damaged.
    """

    def __init__(self, plan: Plan, runs: Path, *, fresh: bool = False) -> None:
        fields = plan.fields()
        name = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = make_private(runs / f"{plan.dataset.name}-{name}")
        self._lock = FileLock(self.folder / "lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise BusyError(f"Another process is measuring just this, in {self.folder}.") from error
        if fresh or self._is_finished():
            self._clear()
        self.rows: list[Row] = []
        self._done: set[Key] = set()
        try:
            for row in self._read():
                self._note(row)
        except BaseException:
            self._lock.release()
            raise
        self.resumed = len(self.rows)
        self.manifest = self._load_manifest() or {
            **fields,
            "begun": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        }
        self._write("manifest.json", self.manifest)
        self._file = (self.folder / "rows.jsonl").open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.release()

    def home(self, backend: str) -> Path:
        """Where a backend's journals and states are while the run lasts."""
        return self.folder / "homes" / backend

    def add(self, row: Row) -> None:
        """Record a measurement; once this returns it survives the death of the process."""
        self._file.write(json_text(row) + "\n")
        self._file.flush()
        self._note(row)

    def has(self, kind: str, method: str, case: str, item: str) -> bool:
        """Whether a measurement is there."""
        return (kind, method, case, item) in self._done

    def finish(self, result: Mapping[str, Any]) -> None:
        """Store the result and remove what was needed to reach it; the next run begins anew."""
        self._write("result.json", result)
        shutil.rmtree(self.folder / "homes", ignore_errors=True)

    def _note(self, row: Row) -> None:
        self.rows.append(row)
        self._done.add((row["kind"], row["method"], row["case"], row["item"]))

    def _is_finished(self) -> bool:
        return (self.folder / "result.json").exists()

    def _clear(self) -> None:
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
                yield json.loads(line)
            except ValueError as error:
                raise StorageError(f"{file} is damaged ({error}). Start over with --fresh.") from error

    def _load_manifest(self) -> dict[str, Any] | None:
        file = self.folder / "manifest.json"
        loaded: dict[str, Any] | None = (
            json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        )
        return loaded

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        fresh = self.folder / f"{name}.part"
        fresh.write_text(json_text(value, indent=2), encoding="utf-8")
        fresh.replace(self.folder / name)


def versions() -> dict[str, str]:
    """The versions of what takes part."""
    found = {"memagent": memagent.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def code_digest() -> str:
    """A digest of memagent's own source and the data in it."""
    digest = hashlib.sha256()
    root = Path(memagent.__file__).parent
    for folder in ("agent", "backends", "kernels"):
        for path in sorted(path for path in (root / folder).rglob("*") if path.suffix in (".py", ".yaml")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
