"""The map's pages: keys and values of pieces in safetensors files, memory-mapped, the hot ones kept in memory.

A page file holds some pieces, token after token, so that reading one piece touches one stretch of the file:

    keys.codes, values.codes   [tokens, layers, kv_heads, head_dim], halved in the last dimension for int4
    keys.scale, values.scale   float16, unless bf16: [pieces, layers, kv_heads, head_dim], [tokens, layers, kv_heads, 1]
    metadata                   "pieces": JSON {piece: [start, end, row of its scale]}, "precision"

A piece shares nothing with those it was written with, so that a forgotten one leaves no trace in their scales.

A file never changes once written: forgetting writes a new one and removes the old one. So a stored state can share
files with the working folder (hard links) instead of copying them.
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
from memagent.backends.shared.attention.quantization import Precision, decode, encode
from memagent.backends.shared.tensors import save_tensors

_PAGE_TOKENS = 2048


class _Place(NamedTuple):
    """Where a piece is: its file, its first token there and the one after its last, the row of its keys' scale."""

    path: Path
    start: int
    end: int
    row: int


class PageStore:
    """Keys and values of pieces, by piece number.

    Args:
        folder: where the files lie; it is made if need be.
        precision: how they are stored.
        cache_bytes: most memory for pieces that were read lately.

    Raises:
        CheckpointError: a file there cannot be read as a page.
    """

    def __init__(self, folder: Path, precision: Precision, cache_bytes: int) -> None:
        self._folder = folder
        self._precision = precision
        self._cache: OrderedDict[int, KeysAndValues] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._cached = 0
        self._places: dict[int, _Place] = {}
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(folder.glob("*.safetensors")):
            self._note(path)

    def __len__(self) -> int:
        return len(self._places)

    def pieces(self) -> list[int]:
        return sorted(self._places)

    def length(self, piece: int) -> int:
        """Return how many tokens a piece has here."""
        place = self._places[piece]
        return place.end - place.start

    @property
    def tokens(self) -> int:
        return sum(place.end - place.start for place in self._places.values())

    @property
    def bytes_on_disk(self) -> int:
        return sum(path.stat().st_size for path in self._files())

    @property
    def bytes_cached(self) -> int:
        return self._cached

    def add(self, pieces: Sequence[tuple[int, KeysAndValues]]) -> None:
        """Write pieces with their numbers, which must be new, to files of at most some thousand tokens."""
        page: list[tuple[int, KeysAndValues]] = []
        tokens = 0
        for number, found in pieces:
            if page and tokens + len(found.keys) > _PAGE_TOKENS:
                self._write(page)
                page, tokens = [], 0
            page.append((number, found))
            tokens += len(found.keys)
        if page:
            self._write(page)

    def get(self, piece: int) -> KeysAndValues:
        """Return a piece's keys and values as bfloat16.

        Raises:
            CheckpointError: its file was damaged or removed under way.
        """
        if piece in self._cache:
            self._cache.move_to_end(piece)
            return self._cache[piece]
        found = self._read(self._places[piece])
        self._cache[piece] = found
        self._cached += _size(found)
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            self._cached -= _size(self._cache.popitem(last=False)[1])
        return found

    def forget(self, pieces: Collection[int]) -> None:
        """Remove pieces; their bytes are gone from disk, those of all others stay as they are."""
        gone = {piece for piece in pieces if piece in self._places}
        for piece in gone & self._cache.keys():
            self._cached -= _size(self._cache.pop(piece))
        for path in sorted({self._places[piece].path for piece in gone}):
            self._rewrite([path], gone)

    def compact(self) -> tuple[int, int]:
        """Join small files; return how many there were before and are after. Codes and scales stay as they are."""
        files = self._files()
        counts = dict.fromkeys(files, 0)
        for place in self._places.values():
            counts[place.path] += place.end - place.start
        small = [path for path in files if counts[path] < _PAGE_TOKENS // 2]
        for joined in _runs(small, counts):
            if len(joined) > 1:
                self._rewrite(joined, set())
        return len(files), len(self._files())

    def share(self, folder: Path) -> None:
        """Put all files into ``folder`` too: by hard links where the file system can, else copies."""
        folder.mkdir(mode=0o700)
        for path in self._files():
            link(path, folder / path.name)

    def _files(self) -> list[Path]:
        return sorted({place.path for place in self._places.values()})

    def _write(self, page: Sequence[tuple[int, KeysAndValues]]) -> None:
        parts = []
        for _, found in page:
            keys, values = encode(found.keys, self._precision, 0), encode(found.values, self._precision, -1)
            parts.append({f"keys.{name}": one for name, one in keys.items()})
            parts[-1] |= {f"values.{name}": one for name, one in values.items()}
        self._store(parts, [(number, len(found.keys)) for number, found in page])

    def _store(self, parts: Sequence[dict[str, Tensor]], pieces: Sequence[tuple[int, int]]) -> None:
        """Write a file of pieces given as (number, tokens), in this order; their tensors come in any parts."""
        first = pieces[0][0]
        path = self._folder / f"{first:010d}-{self._generation(first):04d}.safetensors"
        places, start = {}, 0
        for row, (number, tokens) in enumerate(pieces):
            places[number] = _Place(path, start, start + tokens, row)
            start += tokens
        table = {str(number): place[1:] for number, place in places.items()}
        tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        save_tensors(tensors, path, {"precision": self._precision, "pieces": json.dumps(table)})
        self._places |= places

    def _generation(self, first: int) -> int:
        taken = (int(path.stem.partition("-")[2]) for path in self._folder.glob(f"{first:010d}-*"))
        return 1 + max(taken, default=0)

    def _rewrite(self, paths: Sequence[Path], gone: Collection[int]) -> None:
        """Write the pieces of some files without those that are gone, code for code, and remove the files."""
        parts: list[dict[str, Tensor]] = []
        kept: list[tuple[int, int]] = []
        dropped: list[int] = []
        for path in paths:
            own = sorted(
                (place.start, number) for number, place in self._places.items() if place.path == path
            )
            stay = [number for _, number in own if number not in gone]
            dropped += [number for _, number in own if number in gone]
            places = [self._places[number] for number in stay]
            if stay:
                with _opened(path) as file:
                    parts.append({name: _rows(file, name, places) for name in file.keys()})  # noqa: SIM118
                kept += [
                    (number, place.end - place.start) for number, place in zip(stay, places, strict=True)
                ]
        if kept:
            self._store(parts, kept)
        for number in dropped:
            del self._places[number]
        for path in paths:
            path.unlink()

    def _read(self, place: _Place) -> KeysAndValues:
        own, row = slice(place.start, place.end), slice(place.row, place.row + 1)
        with _opened(place.path) as file:
            scaled = self._precision != "bf16"
            keys, values = (
                decode(
                    file.get_slice(f"{part}.codes")[own],
                    file.get_slice(f"{part}.scale")[which] if scaled else None,
                    self._precision,
                )
                for part, which in (("keys", row), ("values", own))
            )
        return KeysAndValues(keys, values)

    def _note(self, path: Path) -> None:
        with _opened(path) as file:
            metadata = file.metadata() or {}
        try:
            if metadata.get("precision") != self._precision:
                raise ValueError(f"its precision is {metadata.get('precision')}")
            table: dict[str, list[int]] = json.loads(metadata["pieces"])
            self._places |= {int(number): _Place(path, *place) for number, place in table.items()}
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{path.name} is no page of precision {self._precision} ({error})"
            ) from error


def link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, which nobody changes any more; a copy where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (FileNotFoundError, SafetensorError) as error:
        raise CheckpointError(f"the page {path.name} cannot be read ({error})") from error


def _rows(file: Any, name: str, places: Sequence[_Place]) -> Tensor:
    """Return a stored tensor's rows for some pieces."""
    rows = file.get_slice(name)
    if name == "keys.scale":
        return torch.cat([rows[place.row : place.row + 1] for place in places])
    return torch.cat([rows[place.start : place.end] for place in places])


def _runs(paths: Sequence[Path], counts: dict[Path, int]) -> list[list[Path]]:
    """Group neighbouring files so that none of the groups has more tokens than a page."""
    runs: list[list[Path]] = [[]]
    tokens = 0
    for path in paths:
        if tokens + counts[path] > _PAGE_TOKENS and runs[-1]:
            runs.append([])
            tokens = 0
        runs[-1].append(path)
        tokens += counts[path]
    return [run for run in runs if run]


def _size(found: KeysAndValues) -> int:
    return found.keys.nbytes + found.values.nbytes
