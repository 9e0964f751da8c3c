"""The file of results: one JSON object a line, the settings first, so that a killed run can continue."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairy_tales_measure import Measured


class OtherRunError(Exception):
    """The file holds the results of other settings."""


class Results:
    """What is measured so far.

    Args:
        path: the file; it is made if need be. A last line that was cut off is dropped.
        settings: all that results depend on.

    Raises:
        OtherRunError: the file was begun with other settings, or is no file of results.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self.measured: list[Measured] = []
        lines = self._whole_lines()
        if not lines:
            self._append({"settings": dict(settings)})
            return
        try:
            head, *rows = (json.loads(line) for line in lines)
            found = head["settings"]
            self.measured = [Measured(**{**row, "recalled": tuple(row["recalled"])}) for row in rows]
        except (ValueError, TypeError, KeyError) as error:
            raise OtherRunError(f"{path} is no file of results: {error}") from error
        different = sorted(key for key in settings if found.get(key) != settings[key])
        if different:
            raise OtherRunError(
                f"{path} was begun with another {', '.join(different)}. Name another file, or give what it was begun with."
            )

    def add(self, one: Measured) -> None:
        """Write one result down before the next is measured."""
        self._append(one.as_json())
        self.measured.append(one)

    def done(self, mode: str, tale: str) -> set[str]:
        """Return the questions that are answered."""
        return {one.question for one in self.measured if (one.mode, one.tale) == (mode, tale)}

    def _whole_lines(self) -> list[str]:
        if not self._path.exists():
            return []
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        return whole.decode("utf-8").splitlines()

    def _append(self, row: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
