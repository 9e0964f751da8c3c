"""Random calls of memory attention on odd sizes, and how near to the specification an answer must be."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

RATIO = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


class Sizes(NamedTuple):
    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    memory_len: int
    head_dim: int

    def __str__(self) -> str:
        return "h{}/{}-q{}-kv{}-m{}-d{}".format(*self)


SIZES = [
    Sizes(14, 2, 1, 1, 0, 64),
    Sizes(14, 2, 1, 130, 17, 60),
    Sizes(4, 4, 1, 63, 200, 80),
    Sizes(9, 3, 1, 1, 1, 64),
    Sizes(14, 2, 2, 63, 1, 80),
    Sizes(9, 3, 2, 130, 200, 60),
    Sizes(4, 4, 63, 63, 0, 80),
    Sizes(14, 2, 63, 63, 17, 64),
    Sizes(9, 3, 63, 130, 200, 80),
    Sizes(4, 4, 63, 130, 1, 60),
]
MASKS = ["none", "causal", "boolean", "additive", "by head", "causal and padded"]
BIASES = ["weights", "some hidden", "all hidden"]
each_size = pytest.mark.parametrize("sizes", SIZES, ids=str)
each_mask = pytest.mark.parametrize("kind", MASKS)
each_bias = pytest.mark.parametrize("bias", BIASES)


def assert_close(reference: Tensor, actual: Tensor) -> None:
    """The error's root mean square is small against the reference's."""
    assert actual.dtype == reference.dtype
    assert actual.shape == reference.shape
    if not reference.numel():
        return
    wanted, got = reference.double(), actual.double()
    error = (got - wanted).square().mean().sqrt()
    assert error <= RATIO[reference.dtype] * wanted.square().mean().sqrt()


def tensors(sizes: Sizes, dtype: torch.dtype = torch.float64, *, memory_batch: int = 2) -> list[Tensor]:
    """Random query, key, value, memory query, memory key and memory value of a batch of two."""
    torch.manual_seed(42)
    heads, kv_heads, q_len, kv_len, memory_len, head_dim = sizes
    query, local = (2, heads, q_len, head_dim), (2, kv_heads, kv_len, head_dim)
    memory = (memory_batch, kv_heads, memory_len, head_dim)
    return [torch.randn(shape).to(dtype) for shape in (query, local, local, query, memory, memory)]


def options(sizes: Sizes, kind: str = "none", dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """The options of a call; every mask hides all local keys from some query of the second sample."""
    torch.manual_seed(43)
    found: dict[str, Any] = {"scaling": sizes.head_dim**-0.5, "is_causal": kind.startswith("causal")}
    visible = torch.rand(2, sizes.heads if kind == "by head" else 1, sizes.q_len, sizes.kv_len) > 0.3
    visible[1, :, 0] = False
    if kind in ("boolean", "by head"):
        found["mask"] = visible
    elif kind == "additive":
        found["mask"] = torch.randn(visible.shape).to(dtype).masked_fill(~visible, -torch.inf)
    elif kind == "causal and padded":  # on the left, as tokenizers pad a batch for generation
        padding = torch.tensor([0, (sizes.kv_len + 1) // 2])
        found["mask"] = (torch.arange(sizes.kv_len) >= padding[:, None])[:, None, None]
    return found


def memory_bias(sizes: Sizes, bias: str) -> Tensor:
    torch.manual_seed(44)
    numbers = torch.randn(sizes.memory_len) * 2
    if bias == "some hidden":  # the first of two or more, so that the running maximum begins at -inf
        numbers[: sizes.memory_len * 2 // 3] = -torch.inf
    return numbers.fill_(-torch.inf) if bias == "all hidden" else numbers
