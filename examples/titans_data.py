"""What the Titans examples read: pairs to be recalled after a long distraction, or the bytes of text files.

A batch is a function of the seed and its number alone, so that a killed run continues with the batches it would have had.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

IGNORED = -100  # of a label that is not to be predicted
TRAINING, TESTING = 0, 1


class DataError(Exception):
    """What was asked for cannot be read or made."""


class Source(ABC):
    """Where batches come from."""

    vocabulary: int
    """Token ids are 0 to ``vocabulary - 1``."""

    @abstractmethod
    def batch(self, number: int, size: int, length: int, part: int = TRAINING) -> tuple[Tensor, Tensor]:
        """Return token ids ``[size, length]`` and labels of the same shape, `IGNORED` where nothing is asked.

        Raises:
            DataError: The length fits nothing.
        """


class Recall(Source):
    """Associative recall: keys and their values among random values, then each key again, to be answered.

    ``... v v K1 V1 v v v K2 V2 v v ... ASK K2 V2 ASK K1 V1``: only the values after ``ASK K`` are labels. Keys occur
    nowhere else, and values are everywhere, so that a value is known by the key before it only. One pair is a needle
    in a haystack.

    Args:
        pairs: Pairs in each sequence, all of different keys.
        keys, values: How many there are to choose from; guessing is right once in ``values`` times.
        seed: Of all sequences.
    """

    def __init__(self, pairs: int, keys: int = 16, values: int = 16, seed: int = 0) -> None:
        if not 1 <= pairs <= keys:
            raise DataError(f"Pairs must be 1 to {keys}, as many as there are keys, not {pairs}.")
        self.pairs, self.keys, self.values, self.seed = pairs, keys, values, seed
        self.vocabulary = values + keys + 1

    def batch(self, number: int, size: int, length: int, part: int = TRAINING) -> tuple[Tensor, Tensor]:
        body = length - 3 * self.pairs
        if body < 2 * self.pairs:
            raise DataError(
                f"{self.pairs} pairs need a length of {5 * self.pairs} tokens or more, not {length}."
            )
        dice = torch.Generator().manual_seed(_mixed(self.seed, number, part))
        ids = torch.randint(self.values, (size, length), generator=dice)
        keys = _choices(size, self.keys, self.pairs, dice) + self.values
        values = torch.randint(self.values, (size, self.pairs), generator=dice)
        places = 2 * _choices(size, body // 2, self.pairs, dice)
        ids.scatter_(1, places, keys).scatter_(1, places + 1, values)
        order = _choices(size, self.pairs, self.pairs, dice)
        asked = torch.full((size, self.pairs), self.values + self.keys)
        questions = torch.stack((asked, keys.gather(1, order), values.gather(1, order)), 2)
        ids[:, body:] = questions.flatten(1)
        labels = torch.full_like(ids, IGNORED)
        labels[:, body + 2 :: 3] = ids[:, body + 2 :: 3]
        return ids, labels


class Text(Source):
    """Random stretches of the bytes of text files, joined; their last tenth is kept for testing.

    Args:
        files: Any files; they are read as they are.
        seed: Of the stretches.

    Raises:
        DataError: A file cannot be read.
    """

    vocabulary = 256

    def __init__(self, files: Sequence[Path], seed: int = 0) -> None:
        try:
            content = b"\n".join(path.read_bytes() for path in files)
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error
        self.seed = seed
        all_bytes = torch.frombuffer(bytearray(content or b"\n"), dtype=torch.uint8)
        border = len(all_bytes) * 9 // 10
        self.parts = {TRAINING: all_bytes[:border], TESTING: all_bytes[border:]}

    def batch(self, number: int, size: int, length: int, part: int = TRAINING) -> tuple[Tensor, Tensor]:
        source = self.parts[part]
        if len(source) < length:
            raise DataError(
                f"Sequences of {length} bytes need {10 * length:,} bytes of text or more, because a tenth is "
                f"for testing; there are {sum(map(len, self.parts.values())):,}."
            )
        dice = torch.Generator().manual_seed(_mixed(self.seed, number, part))
        starts = torch.randint(len(source) - length + 1, (size, 1), generator=dice)
        ids = source[starts + torch.arange(length)].long()
        return ids, ids


def _mixed(seed: int, number: int, part: int) -> int:
    """One seed of three numbers; training and testing never share one."""
    return ((seed * 1_000_003 + number) * 2 + part) % 2**63


def _choices(size: int, among: int, count: int, dice: torch.Generator) -> Tensor:
    """``[size, count]``: different numbers below ``among`` in each row."""
    return torch.rand(size, among, generator=dice).argsort(1)[:, :count]
