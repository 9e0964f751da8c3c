"""Pages of keys and values: safetensors files, memory-mapped, with a cache of the chunks read lately.

A page file holds some chunks, token after token, so that reading a chunk reads one contiguous part of the file:

    keys.codes, values.codes   [tokens, layers, kv_heads, head_dim], halved in the last dimension for int4
    keys.scale, values.scale   float16, unless bf16: [chunks, layers, kv_heads, head_dim], [tokens, layers, kv_heads, 1]
    metadata                   "chunks": JSON {chunk number: [start, end, row of its scale]}, "precision"

A chunk shares no scale with the others of its page, so a forgotten chunk leaves no trace in theirs.

A file never changes once it is written: forgetting writes a new file and removes the old one. So a stored state can
share files with the working folder (hard links) instead of copying them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memagent.backends.errors import CheckpointError
from memagent.backends.shared.attention.encoder import KeysAndValues
from memagent.backends.shared.attention.quantization import Precision, dequantize, quantize
from memagent.backends.shared.tensors import save_tensors

_PAGE_TOKENS = 2048


class _Location(NamedTuple):
    """Where a chunk is stored.

    Attributes:
        path: its page file.
        start, end: its first token in the file, and the token after its last one.
        row: the row of its keys' scale.
    """

    path: Path
    start: int
    end: int
    row: int


class PageStore:
    """Stores the keys and values of chunks by chunk number.

    Args:
        folder: of the page files; created if it is missing.
        precision: how keys and values are stored.
        cache_bytes: most memory for chunks that were read lately.

    Raises:
        CheckpointError: a file there cannot be read as a page.
    """

    def __init__(self, folder: Path, precision: Precision, cache_bytes: int) -> None:
        self._folder = folder
        self._precision = precision
        self._cache: OrderedDict[int, KeysAndValues] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._cached_bytes = 0
        self._locations: dict[int, _Location] = {}
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(folder.glob("*.safetensors")):
            self._read_table(path)

    def __len__(self) -> int:
        return len(self._locations)

    def chunk_numbers(self) -> list[int]:
        """Return the numbers of all stored chunks, ascending."""
        return sorted(self._locations)

    def num_tokens(self, number: int) -> int:
        """Return how many tokens a chunk has here."""
        location = self._locations[number]
        return location.end - location.start

    @property
    def total_tokens(self) -> int:
        """Tokens of all stored chunks."""
        return sum(self.num_tokens(number) for number in self._locations)

    @property
    def bytes_on_disk(self) -> int:
        """Size of all page files."""
        return sum(path.stat().st_size for path in self._files())

    @property
    def bytes_cached(self) -> int:
        """Size of the chunks that the cache holds."""
        return self._cached_bytes

    def add(self, chunks: Sequence[tuple[int, KeysAndValues]]) -> None:
        """Write chunks to page files of at most some thousand tokens.

        Args:
            chunks: with their numbers, none of which is stored already.
        """
        page: list[tuple[int, KeysAndValues]] = []
        page_tokens = 0
        for number, tensors in chunks:
            if page and page_tokens + len(tensors.keys) > _PAGE_TOKENS:
                self._write_page(page)
                page, page_tokens = [], 0
            page.append((number, tensors))
            page_tokens += len(tensors.keys)
        if page:
            self._write_page(page)

    def get(self, number: int) -> KeysAndValues:
        """Return a chunk's keys and values as bfloat16.

        Raises:
            KeyError: the chunk is not stored.
            CheckpointError: its file was damaged or removed in the meantime.
        """
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        tensors = self._read(self._locations[number])
        self._cache[number] = tensors
        self._cached_bytes += _num_bytes(tensors)
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            self._cached_bytes -= _num_bytes(self._cache.popitem(last=False)[1])
        return tensors

    def delete(self, numbers: Collection[int]) -> None:
        """Remove chunks from disk and cache. The stored bytes of all other chunks stay the same.

        Args:
            numbers: those that are not stored are ignored.
        """
        deleted = {number for number in numbers if number in self._locations}
        for number in deleted & self._cache.keys():
            self._cached_bytes -= _num_bytes(self._cache.pop(number))
        for path in sorted({self._locations[number].path for number in deleted}):
            self._rewrite([path], deleted)

    def compact(self) -> tuple[int, int]:
        """Merge small files, code for code.

        Returns:
            How many files there were before, and how many there are now.
        """
        files = self._files()
        file_tokens = dict.fromkeys(files, 0)
        for location in self._locations.values():
            file_tokens[location.path] += location.end - location.start
        small = [path for path in files if file_tokens[path] < _PAGE_TOKENS // 2]
        for group in _groups(small, file_tokens):
            if len(group) > 1:
                self._rewrite(group, set())
        return len(files), len(self._files())

    def link_into(self, folder: Path) -> None:
        """Create ``folder`` and put all page files there too: as hard links if possible, else as copies."""
        folder.mkdir(mode=0o700)
        for path in self._files():
            link_or_copy(path, folder / path.name)

    def _files(self) -> list[Path]:
        return sorted({location.path for location in self._locations.values()})

    def _write_page(self, page: Sequence[tuple[int, KeysAndValues]]) -> None:
        """Quantise some chunks and write them as one file."""
        parts = []
        for _, tensors in page:
            keys = quantize(tensors.keys, self._precision, 0)
            values = quantize(tensors.values, self._precision, -1)
            parts.append({f"keys.{name}": tensor for name, tensor in keys.items()})
            parts[-1] |= {f"values.{name}": tensor for name, tensor in values.items()}
        self._write_file(parts, [(number, len(tensors.keys)) for number, tensors in page])

    def _write_file(self, parts: Sequence[dict[str, Tensor]], chunks: Sequence[tuple[int, int]]) -> None:
        """Write a file of chunks.

        Args:
            parts: the tensors of all chunks, in order, split anywhere.
            chunks: (number, tokens) of each.
        """
        first = chunks[0][0]
        path = self._folder / f"{first:010d}-{self._next_generation(first):04d}.safetensors"
        locations, start = {}, 0
        for row, (number, num_tokens) in enumerate(chunks):
            locations[number] = _Location(path, start, start + num_tokens, row)
            start += num_tokens
        table = {str(number): location[1:] for number, location in locations.items()}
        tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        save_tensors(tensors, path, {"precision": self._precision, "chunks": json.dumps(table)})
        self._locations |= locations

    def _next_generation(self, first: int) -> int:
        """Return the next free number among the files whose first chunk is ``first``."""
        generations = (int(path.stem.partition("-")[2]) for path in self._folder.glob(f"{first:010d}-*"))
        return 1 + max(generations, default=0)

    def _rewrite(self, paths: Sequence[Path], deleted: set[int]) -> None:
        """Write the chunks of some files to a new file, code for code, without deleted ones; remove the old files."""
        numbers_in = {path: self._numbers_in(path) for path in paths}
        parts: list[dict[str, Tensor]] = []
        sizes: list[tuple[int, int]] = []
        for path, numbers in numbers_in.items():
            remaining = [number for number in numbers if number not in deleted]
            locations = [self._locations[number] for number in remaining]
            if remaining:
                with _open_page(path) as file:
                    parts.append({name: _rows(file, name, locations) for name in file.keys()})  # noqa: SIM118
            sizes += [(number, self.num_tokens(number)) for number in remaining]
        removed = deleted & {number for numbers in numbers_in.values() for number in numbers}
        if sizes:
            self._write_file(parts, sizes)
        for number in removed:
            del self._locations[number]
        for path in paths:
            path.unlink()

    def _numbers_in(self, path: Path) -> list[int]:
        """Return the numbers of the chunks of a file, in the order of their tokens."""
        by_start = sorted(
            (location.start, number) for number, location in self._locations.items() if location.path == path
        )
        return [number for _, number in by_start]

    def _read(self, location: _Location) -> KeysAndValues:
        tokens, row = slice(location.start, location.end), slice(location.row, location.row + 1)
        with _open_page(location.path) as file:
            has_scale = self._precision != "bf16"
            keys, values = (
                dequantize(
                    file.get_slice(f"{part}.codes")[tokens],
                    file.get_slice(f"{part}.scale")[scale_rows] if has_scale else None,
                    self._precision,
                )
                for part, scale_rows in (("keys", row), ("values", tokens))
            )
        return KeysAndValues(keys, values)

    def _read_table(self, path: Path) -> None:
        """Read where a file's chunks are."""
        with _open_page(path) as file:
            metadata = file.metadata() or {}
        try:
            if metadata.get("precision") != self._precision:
                raise ValueError(f"its precision is {metadata.get('precision')}")
            table: dict[str, list[int]] = json.loads(metadata["chunks"])
            self._locations |= {int(number): _Location(path, *rest) for number, rest in table.items()}
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{path.name} is not a page of precision {self._precision} ({error})"
            ) from error


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy where the file system has no hard links.

    Args:
        source: a file that does not change any more.
        target: a path that does not exist yet.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _open_page(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (FileNotFoundError, SafetensorError) as error:
        raise CheckpointError(f"the page {path.name} cannot be read ({error})") from error


def _rows(file: Any, name: str, locations: Sequence[_Location]) -> Tensor:
    """Return a stored tensor's rows for some chunks."""
    rows = file.get_slice(name)
    if name == "keys.scale":
        return torch.cat([rows[location.row : location.row + 1] for location in locations])
    return torch.cat([rows[location.start : location.end] for location in locations])


def _groups(paths: Sequence[Path], file_tokens: dict[Path, int]) -> list[list[Path]]:
    """Group neighbouring files so that none of the groups has more tokens than a page."""
    groups: list[list[Path]] = [[]]
    group_tokens = 0
    for path in paths:
        if group_tokens + file_tokens[path] > _PAGE_TOKENS and groups[-1]:
            groups.append([])
            group_tokens = 0
        groups[-1].append(path)
        group_tokens += file_tokens[path]
    return [group for group in groups if group]


def _num_bytes(tensors: KeysAndValues) -> int:
    return tensors.keys.nbytes + tensors.values.nbytes
