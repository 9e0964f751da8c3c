"""Shared by the tests of scenarios: files written for a test."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from memagent.agent.evaluation.scenarios import LocatedScenario, read


def scenario_file(folder: Path, text: str, name: str = "a.recall.yaml") -> Path:
    """A scenario file of this text, whose common indentation and first line break are removed."""
    file = folder / name
    file.write_text(dedent(text).removeprefix("\n"), encoding="utf-8")
    return file


def only_scenario(folder: Path, text: str) -> LocatedScenario:
    """The only scenario of a file of this text."""
    (located,) = read(scenario_file(folder, text))
    return located
