"""Reading scenario files: YAML documents, checked, with the line of every mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from memagent.agent.evaluation.scenarios.document import Field, Node, documents, load
from memagent.agent.evaluation.scenarios.expect import Expectation, Matcher, ReplyExpectation
from memagent.agent.evaluation.scenarios.schema import STEPS, DistractorSpec, ForgetSpec, Scenario, TurnSpec
from memagent.agent.evaluation.scenarios.values import ScenarioModel, shorten
from memagent.backends.errors import InputError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SUFFIXES = (".recall.yaml", ".recall.yml")
_MAX_ERRORS = 10
_MODELS: tuple[type[ScenarioModel], ...] = (
    *STEPS,
    Scenario,
    TurnSpec,
    Matcher,
    Expectation,
    ReplyExpectation,
    DistractorSpec,
    ForgetSpec,
)
FIELD_NAMES = sorted({name for model in _MODELS for name in model.model_fields})
"""Every field name that a scenario file may use, sorted."""


@dataclass(frozen=True)
class LocatedScenario:
    """A scenario with its file and the line it begins at."""

    scenario: Scenario
    file: Path
    line: int


def suite() -> list[Path]:
    """Return the scenario files shipped with memagent."""
    return sorted((Path(__file__).parent / "suite").glob("*.recall.yaml"))


def read_all(files: Sequence[Path]) -> list[LocatedScenario]:
    """Read files, and the scenario files (``SUFFIXES``) of folders and their subfolders, in order.

    Raises:
        InputError: see ``read``; also for a folder without scenario files.
    """
    scenarios: list[LocatedScenario] = []
    for path in files:
        if not _is_folder(path):
            scenarios.extend(read(path))
            continue
        contained = sorted(file for suffix in SUFFIXES for file in path.rglob(f"*{suffix}"))
        if not contained:
            raise InputError(f"{path} holds no *{SUFFIXES[0]} file.")
        scenarios.extend(scenario for file in contained for scenario in read(file))
    return scenarios


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, or a folder that may not be entered; read() has the message
        return False


def read(file: Path) -> list[LocatedScenario]:
    """Read the scenarios of one file: a YAML document each.

    Raises:
        InputError: it cannot be read, is not YAML, is too large, or does not fit the format; names file and line.
    """
    scenarios = [
        LocatedScenario(_scenario(node, file), file, node.line) for node in documents(load(file), file)
    ]
    if not scenarios:
        raise InputError(f"{file} holds no scenario: expected a YAML mapping with name and steps.")
    names: dict[str, int] = {}
    for located in scenarios:
        name, line = located.scenario.name, located.line
        first = names.setdefault(name, line)
        if first != line:
            raise InputError(f"{file}:{line}: the name {name!r} is taken by the scenario at line {first}.")
    return scenarios


def _scenario(node: Node, file: Path) -> Scenario:
    """Check a document against the format; InputError names up to ten mistakes with their lines."""
    try:
        return Scenario.model_validate(node.plain())
    except ValidationError as error:
        messages: dict[str, None] = {}
        for mistake in _without_echoes(error.errors(include_url=False, include_context=False)):
            messages[_message(mistake, node, file)] = None
            if len(messages) == _MAX_ERRORS:
                break
        raise InputError("\n".join(messages)) from error


def _without_echoes(errors: Sequence[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Leave out that a list is too short where mistakes in its items are the reason."""
    containers = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
    return (error for error in errors if error["type"] != "too_short" or error["loc"] not in containers)


def _message(error: ErrorDetails, root: Node, file: Path) -> str:
    """Return one mistake as ``file:line: steps[2].expect.recalled: what is wrong``."""
    node, path, line = root, "", root.line
    for part in error["loc"]:
        child = _child(node, part)
        if child is None:  # a tag of a union, or a field that is missing
            continue
        node, line = child.node, child.line
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{shorten(part)}"
    last = str(error["loc"][-1]) if error["loc"] else ""
    problem = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        near = get_close_matches(last, FIELD_NAMES, n=1)
        problem = "no such field here" + (f"; did you mean {near[0]}?" if near and near[0] != last else "")
    elif error["type"] == "missing":
        problem = f"the field {last} is missing"
    elif isinstance(error["input"], str):
        quoted = repr(shorten(error["input"]))
        problem += f", not {quoted}" if quoted not in problem and not problem.endswith(".") else ""
    return f"{file}:{line}: {path + ': ' if path else ''}{problem}"


def _child(node: Node, part: int | str) -> Field | None:
    """Return the field that one element of an error's location names, if it names any."""
    if isinstance(node.content, Mapping):
        return node.content.get(str(part))
    if isinstance(part, int) and not isinstance(node.content, str) and part < len(node.content):
        item = node.content[part]
        return Field(item.line, item)
    return None
