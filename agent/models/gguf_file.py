"""Checking a GGUF file before it is converted.

The gguf package trusts the header: a length of 2**60 in a damaged file makes it allocate all memory. Here every length
is compared with the size of the file. Source: the specification of GGUF in the repository ggml-org/ggml.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from memagent.backends.errors import ModelError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# struct formats of the other kinds of values, by number
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_DEEPEST_ARRAY = 4
_MOST_DIMENSIONS = 4
_MAX_NAME_BYTES = 1000
_MAX_QUOTE_CHARACTERS = 80
_ALIGNMENT = 32

Value = int | float | str | None


@dataclass(frozen=True)
class GgufHeader:
    """The checked header of a GGUF file.

    Attributes:
        values: metadata by name; None for lists, whose content is not read.
        tensors: numbers of elements by name.
    """

    values: Mapping[str, Value]
    tensors: Mapping[str, int]

    @property
    def architecture_values(self) -> dict[str, Value]:
        """The metadata that describes the model's shape."""
        prefix = f"{self.values.get('general.architecture')}."
        return {name: value for name, value in self.values.items() if name.startswith(prefix)}


def read_header(file: Path) -> GgufHeader:
    """Read the header and check that the file holds all tensors that it lists.

    Time is proportional to the size of the header; the file is mapped, not read into memory.

    Raises:
        ModelError: the file cannot be read, is no GGUF file, or is damaged or cut short.
    """
    try:
        with file.open("rb") as source:
            if source.read(len(_MAGIC)) != _MAGIC:
                raise ModelError(f"{file} is not a GGUF file: it does not begin with the letters GGUF.")
            with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).header()
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    except _DamageError as error:
        raise ModelError(f"{file} is damaged or cut short: {error}. Fetch it again.") from error


class _DamageError(Exception):
    """The header does not fit the file."""


def _quoted(name: str) -> str:
    """Return a name in quotes, cut short: in a damaged file it may be any text."""
    return repr(name if len(name) <= _MAX_QUOTE_CHARACTERS else name[:_MAX_QUOTE_CHARACTERS] + "...")


class _Reader:
    """Reads values one after the other and never past the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = len(_MAGIC)
        self._order = "<"

    def header(self) -> GgufHeader:
        """Read the whole header and check it against the size of the file."""
        version = int(self._number("I"))
        if not version & 0xFFFF:  # written on a machine of the other byte order
            self._order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in _VERSIONS:
            raise _DamageError(f"its version is {version}, expected {' or '.join(map(str, _VERSIONS))}")
        tensor_count, value_count = int(self._number("Q")), int(self._number("Q"))
        values: dict[str, Value] = {}
        for _ in range(value_count):
            name = self._string("a name", _MAX_NAME_BYTES)
            if name in values:
                raise _DamageError(f"{_quoted(name)} stands in it a second time")
            values[name] = self._value(int(self._number("I")), name)
        if not isinstance(values.get("general.architecture"), str):
            raise _DamageError("it names no general.architecture")
        return GgufHeader(values, self._tensors(tensor_count, values.get("general.alignment")))

    def _tensors(self, count: int, alignment: Value) -> dict[str, int]:
        """Read the list of tensors, and check that the file holds all of them without overlap."""
        tensors: dict[str, tuple[int, int, int]] = {}  # elements, bytes, offset
        for _ in range(count):
            name = self._string("a tensor's name", _MAX_NAME_BYTES)
            if name in tensors:
                raise _DamageError(f"the tensor {_quoted(name)} stands in it a second time")
            dimensions = int(self._number("I"))
            if dimensions > _MOST_DIMENSIONS:
                raise _DamageError(f"the tensor {_quoted(name)} has {dimensions:,} dimensions")
            elements = prod(int(self._number("Q")) for _ in range(dimensions))
            tensors[name] = (elements, _size(elements, int(self._number("I")), name), int(self._number("Q")))
        step = _ALIGNMENT if alignment is None else alignment
        if not isinstance(step, int) or step < 1:
            raise _DamageError(f"its alignment is {step!r}")
        begin = -(-self._at // step) * step
        for name, (_, size, offset) in tensors.items():
            end = begin + offset + size
            if end > len(self._data):
                raise _DamageError(
                    f"the tensor {_quoted(name)} ends at byte {end:,}, the file at byte {len(self._data):,}"
                )
        if sum(size for _, size, _ in tensors.values()) > len(self._data):
            raise _DamageError("its tensors overlap")
        return {name: elements for name, (elements, _, _) in tensors.items()}

    def _value(self, kind: int, name: str, depth: int = 0) -> Value:
        """Read a value of metadata; a list is skipped, and read as None."""
        if kind == _STRING:
            return self._string(_quoted(name), len(self._data))
        if kind != _ARRAY:
            return self._number(self._format(kind, name))
        kind, length = int(self._number("I")), int(self._number("Q"))
        if kind == _ARRAY and depth >= _DEEPEST_ARRAY:
            raise _DamageError(f"{_quoted(name)} is nested too deeply")
        if kind in (_STRING, _ARRAY):
            for _ in range(length):
                self._value(kind, name, depth + 1)
        else:
            self._skip(length * struct.calcsize(self._format(kind, name)), _quoted(name))
        return None

    def _format(self, kind: int, name: str) -> str:
        if kind not in _FORMATS:
            raise _DamageError(f"{_quoted(name)} is of the unknown kind {kind}")
        return _FORMATS[kind]

    def _number(self, form: str) -> int | float:
        """Read a number of a struct format."""
        at = self._skip(struct.calcsize("=" + form), "the header")
        number: int | float = struct.unpack_from(self._order + form, self._data, at)[0]
        return number

    def _string(self, what: str, most: int) -> str:
        """Read a text of at most ``most`` bytes; ``what`` names it in messages."""
        length = int(self._number("Q"))
        if length > most:
            raise _DamageError(f"{what} has {length:,} bytes")
        at = self._skip(length, what)
        return self._data[at : at + length].decode("utf-8", "replace")

    def _skip(self, size: int, what: str) -> int:
        """Move past the next bytes and return where they begin."""
        at = self._at
        if size > len(self._data) - at:
            raise _DamageError(
                f"{what} needs {size:,} bytes at byte {at:,}, the file has {len(self._data):,}"
            )
        self._at = at + size
        return at


def _size(elements: int, kind: int, name: str) -> int:
    """Return how many bytes a tensor takes."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise _DamageError(f"the tensor {_quoted(name)} is of the unknown kind {kind}") from error
    return elements * size // block
