"""The settings file: where it is, reading it, and changing one value without touching the rest.

The file is TOML. A change keeps all other lines, comments too. This module imports no heavy package, because
shell completion uses it.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any
from uuid import uuid4

from memagent.agent.files import create_private, write_private
from memagent.backends.errors import SettingError

VARIABLE = "MEMAGENT_CONFIG"
"""The environment variable that names another settings file."""

Key = tuple[str, ...]
"""The path to a value: ``("user",)`` or ``("backends", "rag", "abstain")``."""

Scalar = str | bool | int | float

_MAX_BYTES = 1_000_000
_TABLE = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?")
_ENTRY = re.compile(r"\s*([^=#\s][^=#]*?)\s*=")


def settings_path() -> Path:
    """Return the path of the settings file, which need not exist; relative for an account without a home folder.

    Raises:
        SettingError: ``MEMAGENT_CONFIG`` cannot be a path.
    """
    from platformdirs import user_config_path

    name = os.environ.get(VARIABLE)
    if not name:
        try:
            return user_config_path("memagent") / "config.toml"
        except RuntimeError:
            return Path("~", "config.toml")
    try:
        path = Path(name).expanduser().absolute()
        str(path).encode()
    except (OSError, ValueError, RuntimeError) as error:  # no such home folder, no current folder, not UTF-8
        raise SettingError(
            f"{VARIABLE}={name!r:.200} cannot name the settings file: {error}. Set it to a full path."
        ) from error
    return path


def read_text(path: Path) -> str:
    """Return the text of the settings file; empty if there is no file, or no home folder for one.

    Raises:
        SettingError: it cannot be read, everybody may write it, or it is not UTF-8.
    """
    if not path.is_absolute():
        return ""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise SettingError(
                f"{path} is not a file. Expected a settings file in TOML; {VARIABLE} names it."
            )
        if os.name == "posix" and state.st_mode & stat.S_IWOTH:
            raise SettingError(
                f"{path} can be written by every account on this machine, so its settings are not used. "
                f"Run: chmod 600 '{path}'"
            )
        if state.st_size > _MAX_BYTES:
            raise SettingError(
                f"{path} has {state.st_size:,} bytes; a settings file has at most {_MAX_BYTES:,}."
            )
        content = path.read_bytes()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(
            f"The settings file {path} cannot be read: {reason}. Change its rights, or set {VARIABLE} to another file."
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not valid UTF-8."
        ) from error


def parse(text: str, path: Path) -> dict[str, Any]:
    """Return the values of a settings file's text.

    Args:
        text: of the file.
        path: the file, for the message.

    Raises:
        SettingError: the text is not valid TOML; says at which line and column.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingError(
            f'{path} is not valid TOML: {error}. Expected lines such as: user = "ana"'
        ) from error


def line_of(text: str, key: Key) -> int | None:
    """Return the number of the line, from 1, that holds a key or the header of a table; None if there is none."""
    return next((index + 1 for index, name in _names(text.splitlines()) if name == key), None)


def write_value(path: Path, key: Key, value: Scalar | None) -> bool:
    """Change one value in the settings file; the rest of the text stays as it is.

    The new file has mode 0600 and replaces the old one in one step.

    Args:
        path: the file, which need not exist.
        key: what to change.
        value: None removes the key.

    Returns:
        whether anything was changed.

    Raises:
        SettingError: the file cannot be read or written, there is no home folder, a part of ``key`` is a value rather than a
            table, or the text is too unusual to be changed line by line.
        StorageError: the folder cannot be created or written to.
    """
    if not path.is_absolute():
        raise SettingError(
            f"This account has no home folder. Set {VARIABLE} to the full path of a settings file."
        )
    text = read_text(path)
    values = parse(text, path)
    expected = _with_value(values, key, value)
    if expected == values:
        return False
    changed = _changed(text.splitlines(), key, value)
    new_text = "".join(f"{line}\n" for line in changed)
    if parse(new_text, path) != expected:
        raise SettingError(
            f"{'.'.join(key)} is written in {path} in a form that cannot be changed line by line. "
            "Change it with a text editor."
        )
    _replace(path, new_text)
    return True


def _names(lines: Sequence[str]) -> Iterator[tuple[int, Key]]:
    """Yield the index of each line that holds a table's header or an entry, with its full key."""
    table: Key = ()
    for index, line in enumerate(lines):
        if header := _TABLE.fullmatch(line):
            table = _split(header[1])
            yield index, table
        elif entry := _ENTRY.match(line):
            yield index, (*table, *_split(entry[1]))


def _split(dotted: str) -> Key:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _changed(lines: list[str], key: Key, value: Scalar | None) -> list[str]:
    """Return the lines with one entry replaced, added or removed."""
    names = list(_names(lines))
    index = next((index for index, name in names if name == key), None)
    if value is None:
        return [line for at, line in enumerate(lines) if at != index]
    if index is not None:
        head = lines[index].partition("=")[0].rstrip()
        return [*lines[:index], f"{head} = {_literal(value)}", *lines[index + 1 :]]
    entry = f"{key[-1]} = {_literal(value)}"
    if len(key) == 1:
        return _with_top_entry(lines, entry)
    table = next(
        (index for index, name in names if name == key[:-1] and _TABLE.fullmatch(lines[index])), None
    )
    if table is None:
        return [*lines, *([""] if lines else []), f"[{'.'.join(key[:-1])}]", entry]
    return [*lines[: table + 1], entry, *lines[table + 1 :]]


def _with_top_entry(lines: list[str], entry: str) -> list[str]:
    """Return the lines with an entry added behind the last one that stands before all tables."""
    end = next((index for index, line in enumerate(lines) if _TABLE.fullmatch(line)), len(lines))
    while end and not _ENTRY.match(lines[end - 1]):
        end -= 1
    gap = [""] if not end and lines else []
    return [*lines[:end], entry, *gap, *lines[end:]]


def _literal(value: Scalar) -> str:
    """Write a value as TOML: its basic strings are JSON strings, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _with_value(values: dict[str, Any], key: Key, value: object) -> dict[str, Any]:
    """Return a copy of nested tables with one value changed; tables that become empty stay."""
    result = deepcopy(values)
    table = result
    for part in key[:-1]:
        table = table.setdefault(part, {}) if value is not None else table.get(part, {})
        if not isinstance(table, dict):
            raise SettingError(f"{'.'.join(key)} cannot be set: {part} is a value, not a table.")
    if value is None:
        table.pop(key[-1], None)
    else:
        table[key[-1]] = value
    return result


def _replace(path: Path, text: str) -> None:
    """Replace the settings file in one step, by way of a private file beside it, which is removed on failure.

    Raises:
        SettingError: the file cannot be written.
    """
    target = path.resolve()  # a link to the file, as dotfile managers make, stays a link
    create_private(target.parent, VARIABLE)
    fresh = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        write_private(fresh, text.encode())
        fresh.replace(target)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise SettingError(f"{path} cannot be written: {error.strerror or error}.") from error
