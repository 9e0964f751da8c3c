"""The file of results: one JSON object a line, each with its setting, so that a killed run can continue."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class DamagedResultsError(Exception):
    """A file of results has a line that is none."""


class Results:
    """What is measured so far.

    Args:
        path: The file, which is made if there is none. A last line that a killed process left incomplete is dropped.

    Raises:
        DamagedResultsError: A complete line is no result.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        content = path.read_bytes() if path.exists() else b""
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            path.write_bytes(complete)
        try:
            self.rows: list[dict[str, Any]] = [json.loads(line) for line in complete.splitlines()]
            self._settings = [row["setting"] for row in self.rows]
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedResultsError(f"{path} is not a file of results: {error}") from error

    def has(self, setting: Mapping[str, Any]) -> bool:
        return dict(setting) in self._settings

    def add(self, setting: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        row = {"setting": dict(setting), **values}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
        self._settings.append(row["setting"])


def open_results(path: Path) -> Results:
    """Return the results in a file; a damaged one ends the script with a message."""
    try:
        return Results(path)
    except DamagedResultsError as error:
        sys.exit(str(error))
