"""The items of a JSON or JSON Lines file, one at a time, so that a file of any size fits into memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from memagent.agent.journal.encoding import text_start
from memagent.agent.journal.proof import Source
from memagent.backends.errors import InputError

_WRAPPERS = ("conversations", "results", "memories", "messages")
"""Keys of an object at the top under which the list of items stands."""
_MAX_LINE_BYTES = 64 * 2**20
_MAX_NESTING = 200
_CONTAINERS: dict[str, Callable[[], Any]] = {"start_map": dict, "start_array": list}
Event = tuple[str, Any]
"""Kind and value of what ijson has read."""


def items(source: Source, advance: Callable[[int], None] = lambda size: None) -> Iterator[Any]:
    """Yield the items of a list, of a list in an object, or of lines; an object without such a list is the only item.

    Args:
        source: the file.
        advance: is called with the size of what was read, in bytes.

    Raises:
        InputError: the file is not JSON, or cannot be read.
    """
    import ijson

    start = text_start(source.name, source.file)
    file = _Counted(source.file, advance)
    try:
        first = _first_byte(source, start)
        if first == b"{" and _is_lines(source.file, start):
            for item in _lines(source, advance):
                yield from _unwrapped(item)
        else:
            yield from _items_of(ijson.basic_parse(file, use_float=True), source.name)
    except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{source.name} is not JSON, or was cut off: {_one_line(error)}.") from error
    except OSError as error:
        raise InputError(f"{source.name} cannot be read: {error.strerror}.") from error


class _Counted:
    """A file that reports what is read from it."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        content = self._file.read(size)
        self._advance(len(content))
        return content


def _first_byte(source: Source, start: int) -> bytes:
    """Return the first byte that is no white space, and leave the file at its beginning.

    Raises:
        InputError: the file is empty, or does not begin as JSON does.
    """
    source.file.seek(start)
    first = b" "
    while first.isspace():
        first = source.file.read(1)
    source.file.seek(start)
    if not first:
        raise InputError(f"{source.name} is empty.")
    if first not in (b"[", b"{"):
        raise InputError(f"{source.name} is not JSON: it begins with {first!r}; expected [ or {{.")
    return first


def _is_lines(file: BinaryIO, start: int) -> bool:
    """Return whether the first line is an object of its own; the file is left at its beginning."""
    line = file.readline(_MAX_LINE_BYTES + 1)
    while line.isspace():
        line = file.readline(_MAX_LINE_BYTES + 1)
    file.seek(start)
    try:
        return len(line) <= _MAX_LINE_BYTES and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(source: Source, advance: Callable[[int], None]) -> Iterator[Any]:
    """Yield the value of each line that is not blank.

    Raises:
        InputError: a line is not JSON, or too long; the message says which.
    """
    number = 0
    while line := source.file.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > _MAX_LINE_BYTES:
            raise InputError(f"{source.name}, line {number}: longer than {_MAX_LINE_BYTES:,} bytes.")
        advance(len(line))
        if not line.isspace():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{source.name}, line {number}: not JSON, or cut off: {_one_line(error)}."
                ) from error


def _unwrapped(item: Any) -> Iterator[Any]:
    """Yield the items of an object that wraps a list as a whole file does; of ``messages``, the object is the item."""
    for key in _WRAPPERS[:-1]:
        if isinstance(item, dict) and isinstance(item.get(key), list):
            yield from item[key]
            return
    yield item


def _items_of(events: Iterator[Event], name: str) -> Iterator[Any]:
    """Yield the items of a list, or of the first list under a known key of an object; else the object.

    Args:
        events: of ``ijson.basic_parse``.
        name: of the file, for messages.
    """
    event, _ = next(events)
    if event == "start_array":
        yield from _items_of_list(events, name)
        _drain(events)
        return
    whole: dict[str, Any] = {}
    for event, key in events:
        if event == "end_map":
            break
        opening = next(events)
        if opening[0] == "start_array" and key in _WRAPPERS:
            yield from _items_of_list(events, name)
            _drain(events)
            return
        whole[key] = _value(opening, events, name)
    _drain(events)
    yield whole


def _drain(events: Iterator[Event]) -> None:
    """Read to the end of the file: what follows the items is left out, but must be JSON too."""
    for _ in events:
        pass


def _items_of_list(events: Iterator[Event], name: str) -> Iterator[Any]:
    """Yield the items of a list that has begun, until it ends."""
    for event, value in events:
        if event == "end_array":
            return
        yield _value((event, value), events, name)


def _value(opening: Event, events: Iterator[Event], name: str) -> Any:
    """Build one value. ``ijson.items`` would do it too, but its memory grows with the square of the nesting.

    Args:
        opening: the value's first event.
        events: those that follow.
        name: of the file, for messages.

    Raises:
        InputError: it is nested too deep.
    """
    kind, scalar = opening
    if kind not in _CONTAINERS:
        return scalar
    root: Any = _CONTAINERS[kind]()
    container, key = root, ""
    above: list[Any] = []
    for event, value in events:
        if event == "map_key":
            key = value
            continue
        if event in ("end_map", "end_array"):
            if not above:
                break
            container = above.pop()
            continue
        if event in _CONTAINERS:
            value = _CONTAINERS[event]()
        if isinstance(container, dict):
            container[key] = value
        else:
            container.append(value)
        if event in _CONTAINERS:
            above.append(container)
            container = value
            if len(above) > _MAX_NESTING:
                raise InputError(f"{name}: lists and objects are nested more than {_MAX_NESTING} deep.")
    return root


def _one_line(error: Exception) -> str:
    """Return the first line of a parser's message, without the text around the place, which is somebody's."""
    return str(error).strip().partition("\n")[0].rstrip(".") or "nested too deep"
