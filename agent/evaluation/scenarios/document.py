"""YAML documents as nodes with line numbers, read within fixed bounds of time and memory.

Only the structure is read: scalars stay text; tags and merge keys are ignored. An alias counts as much as the node
it refers to, because nine short lines of aliases can expand to gigabytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from memagent.backends.errors import InputError

MAX_BYTES = 1 << 20
"""Most bytes of a file, and most characters of its values with aliases expanded: about 20,000 lines, read in 2 s."""
MAX_VALUES = 100_000
"""Most values of a file, with aliases expanded."""
MAX_DEPTH = 20
"""Most levels of lists and mappings; a scenario needs eight."""
_MAX_NEIGHBOURS = 1000


@dataclass(frozen=True, slots=True)
class Field:
    """A value of a mapping, and the line of its name."""

    line: int
    node: Node


@dataclass(frozen=True, slots=True)
class Node:
    """A value: a text, a list, or a mapping by field name.

    Attributes:
        line: the line it begins at, counted from 1.
        values, characters: how many it holds, itself included, with aliases expanded.
        depth: levels of lists and mappings in it; 0 for a text.
    """

    line: int
    content: str | Sequence[Node] | Mapping[str, Field]
    values: int = 1
    characters: int = 0
    depth: int = 0

    def plain(self) -> object:
        """Return the node as texts, lists and dictionaries."""
        if isinstance(self.content, str):
            return self.content
        if isinstance(self.content, Mapping):
            return {name: field.node.plain() for name, field in self.content.items()}
        return [node.plain() for node in self.content]


def load(file: Path) -> str:
    """Read a file's text.

    Raises:
        InputError: there is no such file, or it is no regular file, too long, or not UTF-8.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            what = "a folder" if file.is_dir() else "not a regular file"
            raise InputError(f"{file} is {what}; expected a scenario file in YAML.")
        with file.open("rb") as source:
            raw = source.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        near = get_close_matches(file.name, _names_beside(file), n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"There is no file {file}.{hint}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(raw) > MAX_BYTES:
        raise InputError(f"{file} has more than {MAX_BYTES:,} bytes; split it into several files.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        hint = " It seems to be UTF-16." if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise InputError(
            f"{file}:{line}: not valid UTF-8 (byte {error.start} of the file).{hint} Save it as UTF-8."
        ) from error


def documents(text: str, file: Path) -> Iterator[Node]:
    """Yield the documents of a YAML text that are not empty.

    Raises:
        InputError: it is not YAML, or too large or too deep with its aliases expanded; names file and line.
    """
    with _translate_errors(text, file):
        composer = _Composer(text, file)
    while True:
        with _translate_errors(text, file, composer.loader):
            node = composer.next_document()
        if node is None:
            return
        if node.content != "":
            yield node


class _Composer:
    """Builds nodes from the events of PyYAML's parser, which itself does not recurse."""

    def __init__(self, text: str, file: Path) -> None:
        self.loader: Any = yaml.SafeLoader(text)  # its methods have no types
        self._file = file
        self._anchors: dict[str, Node | None] = {}
        self._values = 0
        self._characters = 0

    def next_document(self) -> Node | None:
        """Return the next document, or None after the last."""
        if self.loader.check_event(yaml.StreamStartEvent):
            self.loader.get_event()
        if self.loader.check_event(yaml.StreamEndEvent):
            return None
        self.loader.get_event()
        self._anchors = {}
        node = self._node(0)
        self.loader.get_event()
        return node

    def _node(self, depth: int) -> Node:
        """Build the value that comes next, ``depth`` levels below the document."""
        event = self.loader.get_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            node = self._resolve_alias(str(event.anchor), line)
            self._check_depth(depth + node.depth, line)
            self._count(node.values, node.characters, line)
            return node
        self._check_depth(depth, line)
        if event.anchor is not None:
            if event.anchor in self._anchors:
                raise self._error(line, f"the anchor {event.anchor[:80]!r} stands here a second time.")
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event.value, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(depth, line)
        else:
            node = self._mapping(depth, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _resolve_alias(self, anchor: str, line: int) -> Node:
        """Return the node of an anchor; InputError if it is unknown or not complete yet."""
        if anchor not in self._anchors:
            raise self._error(line, f"not YAML: found undefined alias {anchor[:80]!r}.")
        node = self._anchors[anchor]
        if node is None:
            raise self._error(line, f"the alias {anchor[:80]!r} holds itself.")
        return node

    def _scalar(self, value: str, line: int) -> Node:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            code = f"U+{ord(value[error.start]):04X}"
            raise self._error(line, f"{code} is half of a character: no text can hold it.") from error
        self._count(1, len(value), line)
        return Node(line, value, 1, len(value))

    def _sequence(self, depth: int, line: int) -> Node:
        self._count(1, 0, line)
        items: list[Node] = []
        while not self.loader.check_event(yaml.SequenceEndEvent):
            items.append(self._node(depth + 1))
        self.loader.get_event()
        return _collection(line, items, items)

    def _mapping(self, depth: int, line: int) -> Node:
        self._count(1, 0, line)
        fields: dict[str, Field] = {}
        while not self.loader.check_event(yaml.MappingEndEvent):
            key = self._node(depth + 1)
            if not isinstance(key.content, str):
                raise self._error(key.line, "a field's name must be a word.")
            if key.content in fields:
                raise self._error(key.line, f"{key.content[:80]} stands here a second time.")
            fields[key.content] = Field(key.line, self._node(depth + 1))
        self.loader.get_event()
        return _collection(line, fields, [field.node for field in fields.values()])

    def _count(self, values: int, characters: int, line: int) -> None:
        """Count a value towards the bounds of the file; InputError beyond them."""
        self._values += values
        self._characters += characters
        if self._values > MAX_VALUES:
            raise self._error(
                line, f"more than {MAX_VALUES:,} values, aliases expanded; split the file into several."
            )
        if self._characters > MAX_BYTES:
            raise self._error(
                line,
                f"more than {MAX_BYTES:,} characters, aliases expanded; split the file into several.",
            )

    def _check_depth(self, depth: int, line: int) -> None:
        if depth > MAX_DEPTH:
            raise self._error(line, f"nested too deeply; {MAX_DEPTH} levels at most.")

    def _error(self, line: int, what: str) -> InputError:
        return InputError(f"{self._file}:{line}: {what}")


def _collection(line: int, content: Sequence[Node] | Mapping[str, Field], children: Sequence[Node]) -> Node:
    """Return a list or mapping as a node, with the sizes of its children added up."""
    return Node(
        line,
        content,
        1 + sum(node.values for node in children),
        sum(node.characters for node in children),
        1 + max((node.depth for node in children), default=0),
    )


@contextmanager
def _translate_errors(text: str, file: Path, loader: yaml.SafeLoader | None = None) -> Iterator[None]:
    """Turn the errors of PyYAML into InputError with the line."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        problem = ", ".join(part for part in (error.problem, error.context) if part)
        raise InputError(f"{where}: not YAML: {problem}.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{file}:{line}: not YAML: {error.reason}.") from error
    except (ValueError, OverflowError) as error:  # "\U99999999", or a version of 5,000 digits
        line = loader.line + 1 if loader is not None else 1
        raise InputError(f"{file}:{line}: not YAML: {error}.") from error


def _names_beside(file: Path) -> list[str]:
    """Return names of files in the same folder, to suggest one; at most 1,000, none if it cannot be read."""
    try:
        return [path.name for path in islice(file.parent.iterdir(), _MAX_NEIGHBOURS)]
    except OSError:
        return []
