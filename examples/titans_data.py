"""Data of the Titans examples: key-value pairs to recall after distracting tokens, or the bytes of text files.

A batch depends only on the seed and its number, so that a killed run continues with the same batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

IGNORED = -100  # label of a token that is not predicted
TRAINING, TESTING = 0, 1


class DataError(Exception):
    """The data cannot be read, or sequences of this length cannot be made."""


class Source(ABC):
    """A source of batches.

    Attributes:
        vocabulary: The number of tokens; ids are 0 to ``vocabulary - 1``.
    """

    vocabulary: int

    @abstractmethod
    def batch(self, number: int, size: int, length: int, part: int = TRAINING) -> tuple[Tensor, Tensor]:
        """Return a batch.

        Args:
            number: Of the batch, from 0.
            size: The number of sequences.
            length: Tokens of a sequence.
            part: `TRAINING` or `TESTING`; they never share a batch.

        Returns:
            Token ids and labels, ``[size, length]`` each. Labels are `IGNORED` where nothing is predicted.

        Raises:
            DataError: The length is too small, or larger than the text.
        """


class Recall(Source):
    """Associative recall: keys and their values among random values, then each key again, to be answered with its value.

    ``... v v K1 V1 v v v K2 V2 v v ... ASK K2 V2 ASK K1 V1``: only the values after ``ASK K`` are labels. Keys occur nowhere
    else and values everywhere, so only the key before a value identifies it. One pair is a needle in a haystack.

    Args:
        pairs: Pairs in each sequence, 1 to ``keys``, all of different keys.
        keys, values: The number of different keys and of different values; guessing has accuracy ``1 / values``.
        seed: Of all sequences.

    Raises:
        DataError: ``pairs`` is out of range.
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
        generator = torch.Generator().manual_seed(_combined_seed(self.seed, number, part))
        ids = torch.randint(self.values, (size, length), generator=generator)
        keys = _choices(size, self.keys, self.pairs, generator) + self.values
        values = torch.randint(self.values, (size, self.pairs), generator=generator)
        positions = 2 * _choices(size, body // 2, self.pairs, generator)
        ids.scatter_(1, positions, keys).scatter_(1, positions + 1, values)
        order = _choices(size, self.pairs, self.pairs, generator)
        ask_tokens = torch.full((size, self.pairs), self.values + self.keys)
        questions = torch.stack((ask_tokens, keys.gather(1, order), values.gather(1, order)), 2)
        ids[:, body:] = questions.flatten(1)
        labels = torch.full_like(ids, IGNORED)
        labels[:, body + 2 :: 3] = ids[:, body + 2 :: 3]
        return ids, labels


class Text(Source):
    """Random sequences of bytes from text files; the last tenth of their joined content is kept for testing.

    Args:
        files: Files of any content.
        seed: Of the sequences' positions.

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
        generator = torch.Generator().manual_seed(_combined_seed(self.seed, number, part))
        starts = torch.randint(len(source) - length + 1, (size, 1), generator=generator)
        ids = source[starts + torch.arange(length)].long()
        return ids, ids


def _combined_seed(seed: int, number: int, part: int) -> int:
    """Return one seed for three numbers; training and testing never share one."""
    return ((seed * 1_000_003 + number) * 2 + part) % 2**63


def _choices(size: int, population: int, count: int, generator: torch.Generator) -> Tensor:
    """Return ``[size, count]``: different numbers below ``population`` in each row."""
    return torch.rand(size, population, generator=generator).argsort(1)[:, :count]
