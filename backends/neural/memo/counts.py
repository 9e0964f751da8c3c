"""How often each window is stored, by a salted hash: what decides that a pair enters or leaves a matrix."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


class Hasher:
    """Hashes of a memory's windows: 64 bits of BLAKE2b, keyed by the memory's seed.

    With 10 million windows, the chance that any two share a hash is 3 in a million.
    """

    def __init__(self, seed: int) -> None:
        self._salt = hashlib.sha256(f"memo windows {seed}".encode()).digest()

    def windows(self, purpose: str, prefix: bytes, windows: Iterable[bytes]) -> list[int]:
        """Return the hash of each window.

        Args:
            purpose: What is counted; the same window for another purpose has another hash.
            prefix: What the window follows, such as the code of its text.
            windows: The bytes of each.

        Returns:
            Integers that an int64 holds.
        """
        start = hashlib.blake2b(digest_size=8, key=self._salt)
        start.update(f"{purpose} {len(prefix)} ".encode() + prefix)
        hashes = []
        for window in windows:
            state = start.copy()
            state.update(window)
            hashes.append(int.from_bytes(state.digest(), "little", signed=True))
        return hashes


class WindowCounts:
    """The count of each hash; a hash whose count falls to 0 leaves no trace."""

    def __init__(self, hashes: Tensor, counts: Tensor) -> None:
        self._counts = dict(zip(hashes.tolist(), counts.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, window: int) -> bool:
        return window in self._counts

    def entering(self, hashes: list[int]) -> list[int]:
        """Return where windows that are not stored yet occur first among the hashes."""
        return [place for window, place in _first(hashes).items() if window not in self._counts]

    def leaving(self, hashes: list[int]) -> list[int]:
        """Return where windows that are not stored elsewhere occur first among the hashes.

        Raises:
            KeyError: A window is stored less often than it occurs among the hashes.
        """
        occurrences = Counter(hashes)
        for window, number in occurrences.items():
            if self._counts.get(window, 0) < number:
                raise KeyError(window)
        return [
            place for window, place in _first(hashes).items() if self._counts[window] == occurrences[window]
        ]

    def add(self, hashes: list[int], *, subtract: bool) -> None:
        """Count every hash once more, or once less."""
        for window, number in Counter(hashes).items():
            count = self._counts.get(window, 0) + (-number if subtract else number)
            if count:
                self._counts[window] = count
            else:
                del self._counts[window]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return the hashes in ascending order, int64, and their counts, int32."""
        hashes = np.fromiter(self._counts, np.int64, len(self._counts))
        counts = np.fromiter(self._counts.values(), np.int64, len(self._counts))
        order = np.argsort(hashes)
        return torch.from_numpy(hashes[order]), torch.from_numpy(counts[order].astype(np.int32))


def _first(hashes: list[int]) -> dict[int, int]:
    """Return the first place of each hash."""
    places: dict[int, int] = {}
    for place, window in enumerate(hashes):
        places.setdefault(window, place)
    return places
