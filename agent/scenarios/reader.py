"""Reading scenario files: YAML documents, checked, with the line of every mistake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from memagent.agent.scenarios.expect import Expectation, Matcher, ReplyExpectation
from memagent.agent.scenarios.schema import STEPS, DistractorSpec, ForgetSpec, Said, Scenario
from memagent.agent.scenarios.values import Part
from memagent.backends.errors import InputError

SUFFIXES = (".recall.yaml", ".recall.yml")
_MOST_ERRORS = 10
_DEEPEST = 20
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
        if not path.is_dir():
            found.extend(read(path))
            continue
        inside = sorted(file for suffix in SUFFIXES for file in path.rglob(f"*{suffix}"))
        if not inside:
            raise InputError(f"{path} holds no *{SUFFIXES[0]} file.")
        found.extend(one for file in inside for one in read(file))
    return found


def read(file: Path) -> list[Located]:
    """Read the scenarios of one file: a YAML document each.

    Raises:
        InputError: it cannot be read, is not YAML, or says something no scenario can; names file and line.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        near = get_close_matches(file.name, [path.name for path in file.parent.glob("*")], n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"There is no file {file}.{hint}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not valid UTF-8 (byte {error.start}).") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    found = [
        Located(_scenario(node, file), file, node.start_mark.line + 1) for node in _documents(text, file)
    ]
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


def _documents(text: str, file: Path) -> Iterator[yaml.Node]:
    try:
        yield from (node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if not _is_empty(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        said = ", ".join(part for part in (error.problem, error.context) if part)
        raise InputError(f"{where}: not YAML: {said}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{file}:{line}: not YAML: {error.reason}.") from error
    except RecursionError as error:
        raise InputError(f"{file}: nested too deeply.") from error


def _is_empty(node: yaml.Node | None) -> bool:
    return node is None or (isinstance(node, yaml.ScalarNode) and node.value == "")


def _scenario(node: yaml.Node, file: Path) -> Scenario:
    try:
        return Scenario.model_validate(_value(node, file))
    except ValidationError as error:
        errors = error.errors(include_url=False)
        lines = [_message(one, node, file) for one in errors if not _is_echo(one, errors)]
        raise InputError("\n".join(list(dict.fromkeys(lines))[:_MOST_ERRORS])) from error


def _is_echo(error: Any, errors: Sequence[Any]) -> bool:
    """Whether a list only seems too short because its items had mistakes."""
    depth = len(error["loc"])
    return error["type"] == "too_short" and any(
        len(other["loc"]) > depth and other["loc"][:depth] == error["loc"] for other in errors
    )


def _value(node: yaml.Node, file: Path, depth: int = 0) -> Any:
    """A node as lists, dictionaries and texts: no scalar is interpreted here."""
    if depth > _DEEPEST:
        raise InputError(f"{file}:{node.start_mark.line + 1}: nested too deeply, or an alias holds itself.")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, file, depth + 1) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        return node.value
    made: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError(f"{file}:{key.start_mark.line + 1}: a field's name must be a word.")
        if key.value in made:
            raise InputError(f"{file}:{key.start_mark.line + 1}: {key.value} stands here a second time.")
        made[key.value] = _value(value, file, depth + 1)
    return made


def _message(error: Any, root: yaml.Node, file: Path) -> str:
    """One mistake as ``file:line: steps[2].expect.recalled: what is wrong``."""
    node, path = root, ""
    line = root.start_mark.line
    for part in error["loc"]:
        key, inner = _child(node, part)
        if inner is None:  # a tag of a union, or a field that is missing
            continue
        node, line = inner, (key or inner).start_mark.line
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part}"
    last = str(error["loc"][-1]) if error["loc"] else ""
    said = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        near = get_close_matches(last, _FIELDS, n=1)
        said = "no such field here" + (f"; did you mean {near[0]}?" if near and near[0] != last else "")
    elif error["type"] == "missing":
        said = f"the field {last} is missing"
    elif isinstance(error["input"], str) and repr(error["input"]) not in said and not said.endswith("."):
        said += f", not {error['input']!r}"
    return f"{file}:{line + 1}: {path + ': ' if path else ''}{said}"


def _child(node: yaml.Node, part: int | str) -> tuple[yaml.Node | None, yaml.Node | None]:
    """The key and value nodes that one element of an error's location names, if it names any."""
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == part:
                return key, value
    return None, None
