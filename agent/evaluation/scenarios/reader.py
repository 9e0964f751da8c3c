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
from memagent.agent.evaluation.scenarios.schema import STEPS, DistractorSpec, ForgetSpec, Said, Scenario
from memagent.agent.evaluation.scenarios.values import Part, shortened
from memagent.backends.errors import InputError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SUFFIXES = (".recall.yaml", ".recall.yml")
_MOST_ERRORS = 10
_PARTS: tuple[type[Part], ...] = (
    *STEPS,
    Scenario,
    Said,
    Matcher,
    Expectation,
    ReplyExpectation,
    DistractorSpec,
    ForgetSpec,
)
_FIELDS = sorted({name for part in _PARTS for name in part.model_fields})


@dataclass(frozen=True)
class Located:
    """A scenario and where it stands."""

    scenario: Scenario
    file: Path
    line: int


def suite() -> list[Path]:
    """The scenario files shipped with memagent."""
    return sorted((Path(__file__).parent / "suite").glob("*.recall.yaml"))


def read_all(files: Sequence[Path]) -> list[Located]:
    """Read files, and the ``*.recall.yaml`` files of folders, in order.

    Raises:
        NotFoundError, InputError: see ``read``; also for a folder without scenarios.
    """
    found: list[Located] = []
    for path in files:
        if not _is_folder(path):
            found.extend(read(path))
            continue
        inside = sorted(file for suffix in SUFFIXES for file in path.rglob(f"*{suffix}"))
        if not inside:
            raise InputError(f"{path} holds no *{SUFFIXES[0]} file.")
        found.extend(one for file in inside for one in read(file))
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, or a folder that may not be entered; read() says it better
        return False


def read(file: Path) -> list[Located]:
    """Read the scenarios of one file: a YAML document each.

    Raises:
        InputError: it cannot be read, is not YAML, is too large, or says something no scenario can; names file and line.
    """
    found = [Located(_scenario(node, file), file, node.line) for node in documents(load(file), file)]
    if not found:
        raise InputError(f"{file} holds no scenario: expected a YAML mapping with name and steps.")
    names: dict[str, int] = {}
    for one in found:
        first = names.setdefault(one.scenario.name, one.line)
        if first != one.line:
            raise InputError(
                f"{file}:{one.line}: the name {one.scenario.name!r} is taken by the scenario at line {first}."
            )
    return found


def _scenario(node: Node, file: Path) -> Scenario:
    try:
        return Scenario.model_validate(node.plain())
    except ValidationError as error:
        lines: dict[str, None] = {}
        for one in _without_echoes(error.errors(include_url=False, include_context=False)):
            lines[_message(one, node, file)] = None
            if len(lines) == _MOST_ERRORS:
                break
        raise InputError("\n".join(lines)) from error


def _without_echoes(errors: Sequence[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Leave out that a list is too short where it only seems so because its items had mistakes."""
    around = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
    return (error for error in errors if error["type"] != "too_short" or error["loc"] not in around)


def _message(error: ErrorDetails, root: Node, file: Path) -> str:
    """One mistake as ``file:line: steps[2].expect.recalled: what is wrong``."""
    node, path, line = root, "", root.line
    for part in error["loc"]:
        child = _child(node, part)
        if child is None:  # a tag of a union, or a field that is missing
            continue
        node, line = child.node, child.line
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{shortened(part)}"
    last = str(error["loc"][-1]) if error["loc"] else ""
    said = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        near = get_close_matches(last, _FIELDS, n=1)
        said = "no such field here" + (f"; did you mean {near[0]}?" if near and near[0] != last else "")
    elif error["type"] == "missing":
        said = f"the field {last} is missing"
    elif isinstance(error["input"], str):
        given = repr(shortened(error["input"]))
        said += f", not {given}" if given not in said and not said.endswith(".") else ""
    return f"{file}:{line}: {path + ': ' if path else ''}{said}"


def _child(node: Node, part: int | str) -> Field | None:
    """What one element of an error's location names, if it names any."""
    if isinstance(node.content, Mapping):
        return node.content.get(str(part))
    if isinstance(part, int) and not isinstance(node.content, str) and part < len(node.content):
        item = node.content[part]
        return Field(item.line, item)
    return None
