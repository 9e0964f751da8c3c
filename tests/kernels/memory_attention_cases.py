"""Random calls of memory attention: pairwise cases of odd sizes, and the error that is allowed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.kernels.pairwise import Case

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


MASKS = ["none", "causal", "boolean", "additive", "by head", "causal and padded"]
BIASES = ["weights", "some hidden", "all hidden"]
# A value each on, below and beyond the blocks of the kernels, which are powers of two.
SIZES: dict[str, list[Any]] = {
    "heads": [(14, 2), (4, 4), (9, 3)],
    "q_len": [1, 2, 63],
    "kv_len": [1, 63, 130],
    "memory_len": [0, 1, 17, 200],
    "head_dim": [60, 64, 80],
}


def queries_fit(case: Case) -> bool:
    """Return whether there are as many local keys as queries, as causal attention expects."""
    return bool(case.get("q_len", 0) <= case.get("kv_len", case.get("q_len", 0)))


def sizes_of(case: Case) -> Sizes:
    heads, kv_heads = case["heads"]
    return Sizes(heads, kv_heads, case["q_len"], case["kv_len"], case["memory_len"], case["head_dim"])


def case_id(case: Case) -> str:
    """Return a case's name in test reports: its sizes, then its other values."""
    others = [f"{name}={value}" for name, value in case.items() if name not in SIZES]
    return "-".join([str(sizes_of(case)), *others]).replace("torch.", "")


def assert_close(reference: Tensor, actual: Tensor) -> None:
    """Assert that the root mean square of the error is small against that of the reference."""
    assert actual.dtype == reference.dtype
    assert actual.shape == reference.shape
    if not reference.numel():
        return
    exact = reference.double()
    error = (actual.double() - exact).square().mean().sqrt()
    assert error <= RATIO[reference.dtype] * exact.square().mean().sqrt()


def tensors(sizes: Sizes, dtype: torch.dtype = torch.float64, *, memory_batch: int = 2) -> list[Tensor]:
    """Return random query, key, value, memory query, memory key and memory value of a batch of two."""
    torch.manual_seed(42)
    heads, kv_heads, q_len, kv_len, memory_len, head_dim = sizes
    query, local = (2, heads, q_len, head_dim), (2, kv_heads, kv_len, head_dim)
    memory = (memory_batch, kv_heads, memory_len, head_dim)
    return [torch.randn(shape).to(dtype) for shape in (query, local, local, query, memory, memory)]


def options(sizes: Sizes, kind: str = "none", dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Return the options of a call; every mask hides all local keys from some query of the second sample."""
    torch.manual_seed(43)
    named: dict[str, Any] = {"scaling": sizes.head_dim**-0.5, "is_causal": kind.startswith("causal")}
    visible = torch.rand(2, sizes.heads if kind == "by head" else 1, sizes.q_len, sizes.kv_len) > 0.3
    visible[1, :, 0] = False
    if kind in ("boolean", "by head"):
        named["mask"] = visible
    elif kind == "additive":
        named["mask"] = torch.randn(visible.shape).to(dtype).masked_fill(~visible, -torch.inf)
    elif kind == "causal and padded":  # on the left, as tokenizers pad a batch for generation
        padding = torch.tensor([0, (sizes.kv_len + 1) // 2])
        named["mask"] = (torch.arange(sizes.kv_len) >= padding[:, None])[:, None, None]
    return named


def memory_bias(sizes: Sizes, kind: str) -> Tensor:
    """Return random biases of the memory keys; ``kind`` is one of `BIASES`."""
    torch.manual_seed(44)
    numbers = torch.randn(sizes.memory_len) * 2
    if kind == "some hidden":  # the first of two or more, so that the running maximum begins at -inf
        numbers[: sizes.memory_len * 2 // 3] = -torch.inf
    return numbers.fill_(-torch.inf) if kind == "all hidden" else numbers
