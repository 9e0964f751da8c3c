"""Texts and memories of the tests."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from memagent.backends.neural.memo import MeMoMemory, MeMoSettings

VOCABULARY = 5000


def random_texts(count: int, length: int, seed: int = 0, vocabulary: int = VOCABULARY) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(vocabulary) for _ in range(length)] for _ in range(count)]


def memory_of(**options: Any) -> MeMoMemory:
    return MeMoMemory(MeMoSettings(**{"vocab_size": VOCABULARY, "dim": 512, **options}))


def state(memory: MeMoMemory) -> dict[str, bytes]:
    """Return every byte of a memory."""
    memory.pack()
    return {name: tensor.numpy().tobytes() for name, tensor in memory.named_buffers()}


def random_codes(count: int, dim: int = 512, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randint(0, 2, (count, dim), generator=generator) - 1).to(torch.int8)


def weights_after(memory: MeMoMemory, context: list[int]) -> dict[int, float]:
    """Return the weight of every stored token after a text."""
    keys, _ = memory.query_keys([context], [1])
    weights = memory.reading.weights(keys)[0]
    return dict(zip(memory.reading.tokens.tolist(), weights.tolist(), strict=True))
