"""The Triton programs of the neural memory, in Triton's interpreter or on a GPU, against the token recurrence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from memagent.kernels.neural_memory import NeuralMemoryState
from memagent.kernels.neural_memory.naive import neural_memory as naive
from tests.kernels.triton_process import needs_triton, tensors_with_triton

pytestmark = needs_triton


class Case(NamedTuple):
    """Sizes of a memory, and the tokens of consecutive calls."""

    widths: tuple[int, int, int]
    chunk_size: int
    call_lengths: tuple[int, ...]
    update: str

    def __str__(self) -> str:
        widths, lengths = ("x".join(map(str, sizes)) for sizes in (self.widths, self.call_lengths))
        return f"{widths}-c{self.chunk_size}-t{lengths}-{self.update}"


# Blocks are powers of two from 16 on: sizes below, at and beyond one; segments of several chunks; ragged ends.
CASES = [
    Case((3, 7, 4), 1, (3,), "token"),
    Case((3, 7, 4), 4, (3, 3, 5), "token"),
    Case((16, 16, 16), 16, (48,), "token"),
    Case((20, 33, 17), 18, (61,), "token"),
    Case((3, 7, 4), 4, (2, 1, 0, 7, 3), "chunk"),
    Case((20, 33, 17), 16, (64, 9), "chunk"),
]
SCRIPT = """
import sys
import torch
from safetensors.torch import save_file
from memagent.kernels.neural_memory import fused, neural_memory
from tests.kernels.test_neural_memory_triton import CASES, results_of

calls = []
fused_version = fused.neural_memory
fused.neural_memory = lambda *args, **named: calls.append(1) or fused_version(*args, **named)
device = "cuda" if torch.cuda.is_available() else "cpu"
results = [results_of(neural_memory, case, torch.float32, device) for case in CASES]
assert len(calls) == sum(len(case.call_lengths) for case in CASES), "another version ran"
save_file({f"{i}.{j}": tensor for i, row in enumerate(results) for j, tensor in enumerate(row)}, sys.argv[1])
"""


def results_of(
    version: Callable[..., tuple[Tensor, NeuralMemoryState]],
    case: Case,
    dtype: torch.dtype,
    device: str = "cpu",
) -> list[Tensor]:
    """Return outputs, the state, and gradients by all inputs and initial weights."""
    torch.manual_seed(42)
    first, hidden, last = case.widths
    shape = (1, 2, sum(case.call_lengths))
    query, key = (torch.nn.functional.normalize(torch.randn(*shape, first), dim=-1) for _ in range(2))
    theta, eta, alpha = (torch.rand(shape) for _ in range(3))
    weights = [torch.randn(2, first, hidden) / first**0.5, torch.randn(2, hidden, last) / hidden**0.5]
    leaves = [query, key, torch.randn(*shape, last), 0.2 * theta, eta, 0.3 * alpha, *weights]
    leaves = [tensor.to(device, dtype).requires_grad_() for tensor in leaves]
    state = NeuralMemoryState.initial(leaves[6:], 1)
    outputs = []
    for tokens in zip(*(tensor.split(case.call_lengths, 2) for tensor in leaves[:6]), strict=True):
        output, state = version(*tokens, state, chunk_size=case.chunk_size, update=case.update)
        outputs.append(output)
    results = [torch.cat(outputs, 2), *state.weights, *state.momentum]
    cotangents = [torch.randn(tensor.shape).to(device, dtype) for tensor in results]
    gradients = torch.autograd.grad(results, leaves, cotangents)
    return [tensor.detach().cpu().contiguous() for tensor in (*results, *gradients)]


@pytest.fixture(scope="module")
def fused_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The results of all cases, ``case.tensor``, from a process in which the public function runs Triton."""
    return tensors_with_triton(SCRIPT, tmp_path_factory.mktemp("triton"))


@pytest.mark.parametrize("index", range(len(CASES)), ids=map(str, CASES))
def test_outputs_states_and_gradients_match_naive(index: int, fused_results: dict[str, Tensor]) -> None:
    for number, expected in enumerate(results_of(naive, CASES[index], torch.float64)):
        actual = fused_results[f"{index}.{number}"]
        assert actual.shape == expected.shape
        assert float((actual - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_memories_too_large_for_the_chip_do_not_fit() -> None:
    from memagent.kernels.neural_memory.fused import fits

    def state(*widths: int, dtype: torch.dtype = torch.float32) -> NeuralMemoryState:
        weights = [torch.zeros(1, a, b, dtype=dtype) for a, b in pairwise(widths)]
        return NeuralMemoryState.initial(weights, 1)

    assert fits(state(64, 64, 64), 16)
    assert not fits(state(64, 64, 64), 32)
    assert not fits(state(16, 16, 16), 65)
    assert not fits(state(64, 128, 64), 16)
    assert not fits(state(16, 16), 16)
    assert not fits(state(16, 16, 16, 16), 16)
    assert not fits(state(16, 16, 16, dtype=torch.float64), 16)
