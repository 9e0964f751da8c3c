"""The Triton programs of the neural memory, in Triton's interpreter or on a GPU, against the token recurrence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from memagent.kernels.neural_memory import NeuralMemoryState
from memagent.kernels.neural_memory.naive import neural_memory as naive

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


class Case(NamedTuple):
    widths: tuple[int, int, int]
    chunk_size: int
    cuts: tuple[int, ...]
    """Lengths of the calls, one after the other."""
    update: str


# Blocks are powers of two from 16 on: sizes below, at and beyond one; segments of several chunks; ragged ends.
CASES = [
    Case((3, 7, 4), 1, (3,), "token"),
    Case((3, 7, 4), 4, (3, 3, 5), "token"),
    Case((16, 16, 16), 16, (48,), "token"),
    Case((20, 33, 17), 18, (61,), "token"),
    Case((3, 7, 4), 4, (2, 1, 0, 7, 3), "chunk"),
    Case((20, 33, 17), 16, (64, 9), "chunk"),
]
# A module of its own, since Triton reads the variable when it is imported.
SCRIPT = """
import sys, torch
from memagent.kernels.neural_memory import neural_memory
from tests.kernels.test_neural_memory_triton import CASES, outcome
from memagent.kernels.neural_memory import fused as triton
launched = []
recurrence = triton._Recurrence.apply
triton._Recurrence.apply = lambda *given: launched.append(1) or recurrence(*given)
device = "cuda" if torch.cuda.is_available() else "cpu"
found = [outcome(neural_memory, case, torch.float32, device) for case in CASES]
assert len(launched) == sum(len(case.cuts) for case in CASES), "the switch took another version"
torch.save(found, sys.argv[1])
"""


def outcome(
    version: Callable[..., tuple[Tensor, NeuralMemoryState]],
    case: Case,
    dtype: torch.dtype,
    device: str = "cpu",
) -> list[Tensor]:
    """Outputs, the state, and gradients by all inputs and initial weights."""
    torch.manual_seed(42)
    first, hidden, last = case.widths
    shape = (1, 2, sum(case.cuts))
    query, key = (torch.nn.functional.normalize(torch.randn(*shape, first), dim=-1) for _ in range(2))
    theta, eta, alpha = (torch.rand(shape) for _ in range(3))
    weights = [torch.randn(2, first, hidden) / first**0.5, torch.randn(2, hidden, last) / hidden**0.5]
    leaves = [query, key, torch.randn(*shape, last), 0.2 * theta, eta, 0.3 * alpha, *weights]
    leaves = [tensor.to(device, dtype).requires_grad_() for tensor in leaves]
    state = NeuralMemoryState.initial(leaves[6:], 1)
    outputs = []
    for part in zip(*(tensor.split(case.cuts, 2) for tensor in leaves[:6]), strict=True):
        output, state = version(*part, state, chunk_size=case.chunk_size, update=case.update)
        outputs.append(output)
    found = [torch.cat(outputs, 2), *state.weights, *state.momentum]
    cotangents = [torch.randn(tensor.shape).to(device, dtype) for tensor in found]
    gradients = torch.autograd.grad(found, leaves, cotangents)
    return [tensor.detach().cpu() for tensor in (*found, *gradients)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[list[Tensor]]:
    """What the public function gives where it takes the programs."""
    path = tmp_path_factory.mktemp("triton") / "outcomes"
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    found: list[list[Tensor]] = torch.load(path)
    return found


@pytest.mark.parametrize("index", range(len(CASES)), ids=[str(tuple(case)) for case in CASES])
def test_outputs_states_and_gradients_match_naive(index: int, outcomes: list[list[Tensor]]) -> None:
    expected = outcome(naive, CASES[index], torch.float64)
    for want, got in zip(expected, outcomes[index], strict=True):
        assert got.shape == want.shape
        assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())


def test_what_does_not_fit_is_left_to_pytorch() -> None:
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


def test_importing_the_kernel_imports_no_triton() -> None:
    script = "import sys, memagent.kernels.neural_memory; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
