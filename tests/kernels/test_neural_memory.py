"""The neural memory against its specification, and the properties that every version has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from memagent.kernels.neural_memory import NeuralMemoryState, eager, neural_memory, retrieve
from memagent.kernels.neural_memory.naive import memory
from memagent.kernels.neural_memory.naive import neural_memory as naive

RATIO = 1e-10
BATCH, HEADS = 2, 3
# Typed without parameters, because mypy does not accept a list of tensors for them.
write: Callable[..., tuple[Tensor, NeuralMemoryState]] = neural_memory
each_update = pytest.mark.parametrize("update", ["token", "chunk"])


class Case(NamedTuple):
    widths: tuple[int, ...]
    chunk_size: int
    length: int
    splits: tuple[int, ...] = ()

    def __str__(self) -> str:
        widths, splits = "x".join(map(str, self.widths)), "".join(f"|{split}" for split in self.splits)
        return f"{widths}-c{self.chunk_size}-t{self.length}{splits}"


# One to four layers; chunks of one token, ragged tails, calls that end within a chunk, at its end, and with no token.
CASES = [
    Case((3, 4), 1, 5),
    Case((5, 5), 4, 11, (3, 8)),
    Case((3, 7, 4), 1, 5, (2,)),
    Case((3, 7, 4), 4, 12, (4, 4, 5)),
    Case((3, 7, 4), 4, 3),
    Case((3, 7, 4), 16, 37, (1, 2, 34)),
    Case((4, 5, 3, 4), 5, 17, (9,)),
    Case((4, 5, 6, 3, 4), 3, 13, (7,)),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
# Gates of any value, or at the ends of their ranges, where logarithms and quotients of gates fail.
GATES = ["any", "no forgetting", "all forgotten", "no momentum", "all momentum", "some ends", "no steps"]


def weights_of(widths: Sequence[int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(HEADS, d_in, d_out, dtype=dtype) / d_in**0.5 for d_in, d_out in pairwise(widths)]


def tokens(case: Case, gates: str = "any", dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return random query, key, value, theta, eta and alpha."""
    shape = (BATCH, HEADS, case.length)
    query, key = (torch.randn(*shape, case.widths[0], dtype=dtype) for _ in range(2))
    value = torch.randn(*shape, case.widths[-1], dtype=dtype)
    theta, eta, alpha = (torch.rand(shape, dtype=dtype) for _ in range(3))
    if gates == "some ends":
        eta, alpha = (torch.randint(0, 2, shape).to(dtype) for _ in range(2))
    if gates == "no forgetting":
        alpha = torch.zeros_like(alpha)
    elif gates == "all forgotten":
        alpha = torch.ones_like(alpha)
    elif gates == "no momentum":
        eta = torch.zeros_like(eta)
    elif gates == "all momentum":
        eta = torch.ones_like(eta)
    theta = theta * (0.0 if gates == "no steps" else 0.03)
    return [query, key, value, theta, eta, alpha]


def run(
    version: Callable[..., tuple[Tensor, NeuralMemoryState]],
    inputs: Sequence[Tensor],
    state: NeuralMemoryState,
    case: Case,
    update: str,
) -> tuple[Tensor, NeuralMemoryState]:
    """Make one call for each part between the splits; return all outputs and the last state."""
    outputs = []
    for start, stop in zip((0, *case.splits), (*case.splits, case.length), strict=True):
        call_inputs = [tensor[:, :, start:stop] for tensor in inputs]
        output, state = version(*call_inputs, state, chunk_size=case.chunk_size, update=update)
        outputs.append(output)
    return torch.cat(outputs, 2), state


def tensors_of(output: Tensor, state: NeuralMemoryState) -> list[Tensor]:
    return [output, *state.weights, *state.momentum, state.key, state.value, state.gates]


def assert_close(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> None:
    """Assert that the largest error is small against the largest number."""
    for exact, tensor in zip(expected, actual, strict=True):
        assert tensor.shape == exact.shape
        if exact.numel():
            assert float((tensor - exact).detach().abs().max()) <= RATIO * float(exact.detach().abs().max())


def compare(case: Case, update: str, gates: str) -> None:
    """Compare outputs, the state, and gradients by all inputs and initial weights with naive."""
    inputs, weights = tokens(case, gates), weights_of(case.widths)
    leaves = [tensor.requires_grad_() for tensor in (*inputs, *weights)]
    results = [
        tensors_of(*run(version, inputs, NeuralMemoryState.initial(weights, BATCH), case, update))
        for version in (naive, write)
    ]
    assert_close(*results)
    cotangents = [torch.randn_like(tensor) for tensor in results[0]]
    assert_close(*(_gradients(tensors, leaves, cotangents) for tensors in results))


def _gradients(
    results: Sequence[Tensor], leaves: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    # The momentum of a state that took no step has no graph.
    pairs = [pair for pair in zip(results, cotangents, strict=True) if pair[0].requires_grad]
    outputs, weights = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, leaves, weights, materialize_grads=True)


@each_update
@each_case
def test_outputs_states_and_gradients_match_naive(case: Case, update: str) -> None:
    torch.manual_seed(42)
    compare(case, update, "any")


@each_update
@pytest.mark.parametrize("gates", GATES)
def test_gates_at_the_ends_of_their_ranges_match_naive(gates: str, update: str) -> None:
    torch.manual_seed(43)
    compare(Case((3, 7, 4), 4, 10, (6,)), update, gates)


@pytest.mark.parametrize("length", [32, 41, 64, 70])
def test_a_chunk_of_several_blocks_matches_naive(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "LARGEST_BLOCK", 16)
    torch.manual_seed(44)
    compare(Case((3, 5, 4), 32, length, (19,)), "token", "any")


def test_block_size_divides_the_chunk() -> None:
    sizes = {size: eager.block_size(size) for size in (1, 16, 64, 100, 127, 128, 192, 256)}
    assert sizes == {1: 1, 16: 16, 64: 64, 100: 50, 127: 127, 128: 64, 192: 64, 256: 64}


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_sizes_match_naive(data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=5), label="widths")
    length = data.draw(st.integers(1, 12), label="length")
    splits = sorted(data.draw(st.lists(st.integers(0, length), max_size=3), label="splits"))
    case = Case(tuple(widths), data.draw(st.integers(1, 9), label="chunk"), length, tuple(splits))
    torch.manual_seed(data.draw(st.integers(0, 99), label="seed"))
    compare(case, data.draw(st.sampled_from(["token", "chunk"])), data.draw(st.sampled_from(GATES)))


@each_update
def test_gradients_match_finite_differences(update: str) -> None:
    torch.manual_seed(45)
    case = Case((2, 3, 2), 2, 5)
    leaves = [tensor.requires_grad_() for tensor in (*tokens(case), *weights_of(case.widths))]

    def results_of(*arguments: Tensor) -> tuple[Tensor, ...]:
        state = NeuralMemoryState.initial(arguments[6:], BATCH)
        return tuple(tensors_of(*run(write, arguments[:6], state, case, update)))

    assert torch.autograd.gradcheck(results_of, leaves, fast_mode=True)


@pytest.mark.parametrize("length", [2, 5])
def test_gradients_of_retrieve_match_finite_differences(length: int) -> None:
    torch.manual_seed(54)
    case = Case((2, 3, 2), 4, length)
    leaves = [tensor.requires_grad_() for tensor in (*tokens(case), *weights_of(case.widths))]

    def results_of(*arguments: Tensor) -> Tensor:
        _, state = write(*arguments[:6], NeuralMemoryState.initial(arguments[6:], BATCH), chunk_size=4)
        return retrieve(arguments[0], state)

    assert torch.autograd.gradcheck(results_of, leaves, fast_mode=True)


def test_both_updates_agree_for_chunks_of_one_token() -> None:
    """If a chunk is a token, both kinds of update are the paper's rule without chunks."""
    torch.manual_seed(46)
    case = Case((3, 5, 4), 1, 9)
    inputs, state = tokens(case), NeuralMemoryState.initial(weights_of(case.widths), BATCH)
    assert_close(*(tensors_of(*run(write, inputs, state, case, update)) for update in ("token", "chunk")))


def test_linear_memory_without_momentum_is_the_gated_delta_rule() -> None:
    """M_t = (1 - alpha) M_{t-1} - beta k (k M_{t-1} - v), beta = 2 theta (https://arxiv.org/abs/2412.06464)."""
    torch.manual_seed(47)
    case = Case((5, 5), 1, 12)
    query, key, value, theta, eta, alpha = tokens(case)
    start = weights_of(case.widths)
    output, _ = write(
        query, key, value, theta, eta * 0, alpha, NeuralMemoryState.initial(start, BATCH), chunk_size=1
    )
    state = start[0].expand(BATCH, -1, -1, -1)
    for token in range(case.length):
        k, v, q = (tensor[:, :, token, None] for tensor in (key, value, query))
        keep, beta = 1 - alpha[:, :, token, None, None], 2 * theta[:, :, token, None, None]
        state = keep * state - beta * k.mT @ (k @ state - v)
        assert torch.allclose(output[:, :, token, None], q @ state, rtol=0, atol=1e-12)


@each_update
@pytest.mark.parametrize("chunk_size", [1, 4, 32])
def test_outputs_do_not_depend_on_later_tokens(chunk_size: int, update: str) -> None:
    torch.manual_seed(48)
    case = Case((3, 5, 4), chunk_size, 40)
    inputs, state = tokens(case), NeuralMemoryState.initial(weights_of(case.widths), BATCH)
    before, _ = write(*inputs, state, chunk_size=chunk_size, update=update)
    for token in (3, 17, 33):
        changed = [torch.cat((part[:, :, :token], part[:, :, token:] * 0.5 + 0.1), 2) for part in inputs]
        after, _ = write(*changed, state, chunk_size=chunk_size, update=update)
        assert torch.equal(before[:, :, :token], after[:, :, :token])
        assert not torch.equal(before[:, :, token], after[:, :, token])


def test_a_query_reads_its_own_write() -> None:
    torch.manual_seed(49)
    case = Case((3, 5, 4), 4, 6)
    inputs, state = tokens(case), NeuralMemoryState.initial(weights_of(case.widths), BATCH)
    before, _ = write(*inputs, state, chunk_size=4)
    inputs[2][:, :, 5] += 1
    after, _ = write(*inputs, state, chunk_size=4)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert (before[:, :, 5] - after[:, :, 5]).abs().min() > 0


@each_update
@pytest.mark.parametrize("length", [8, 11])
def test_retrieve_reads_the_memory_of_the_last_query(length: int, update: str) -> None:
    torch.manual_seed(50)
    case = Case((3, 5, 4), 4, length)
    inputs, state = tokens(case), NeuralMemoryState.initial(weights_of(case.widths), BATCH)
    output, state = write(*inputs, state, chunk_size=4, update=update)
    answers = retrieve(inputs[0][:, :, -2:], state, update=update)
    assert_close([output[:, :, -1]], [answers[:, :, -1]])
    if update == "chunk":
        assert torch.equal(answers, memory(inputs[0][:, :, -2:], state.weights))


@each_update
def test_a_loaded_state_continues_with_the_same_numbers(update: str, tmp_path: Path) -> None:
    torch.manual_seed(51)
    case = Case((3, 5, 4), 4, 15)
    inputs, state = tokens(case), NeuralMemoryState.initial(weights_of(case.widths), BATCH)
    all_outputs, expected = write(*inputs, state, chunk_size=4, update=update)
    first, middle = write(*(part[:, :, :6] for part in inputs), state, chunk_size=4, update=update)
    assert middle.pending == 2
    save_file(middle.tensors(), tmp_path / "state.safetensors")
    loaded = NeuralMemoryState.from_tensors(load_file(tmp_path / "state.safetensors"))
    rest = [part[:, :, 6:] for part in inputs]
    second, actual = write(*rest, loaded, chunk_size=4, update=update)
    assert_close(tensors_of(all_outputs, expected), tensors_of(torch.cat((first, second), 2), actual))
    repeated, _ = write(*rest, middle, chunk_size=4, update=update)
    assert torch.equal(repeated, second)


def test_detach_removes_the_graph() -> None:
    torch.manual_seed(52)
    case = Case((3, 5, 4), 4, 6)
    weights = [weight.requires_grad_() for weight in weights_of(case.widths)]
    _, state = write(*tokens(case), NeuralMemoryState.initial(weights, BATCH), chunk_size=4)
    assert state.weights[0].requires_grad
    assert not any(tensor.requires_grad for tensor in state.detach().tensors().values())
    assert not any(part.requires_grad for part in tensors_of(state.detach().key, state.detach()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision_is_close(dtype: torch.dtype) -> None:
    """The state is float32 for tokens of any type."""
    torch.manual_seed(53)
    case = Case((8, 16, 8), 16, 100)
    inputs = [tensor.to(dtype) for tensor in tokens(case)]
    weights = weights_of(case.widths, torch.float32)
    output, state = write(*inputs, NeuralMemoryState.initial(weights, BATCH), chunk_size=16)
    wide = NeuralMemoryState.initial([weight.double() for weight in weights], BATCH)
    expected, _ = write(*(tensor.double() for tensor in inputs), wide, chunk_size=16)
    assert output.dtype == dtype
    assert {tensor.dtype for tensor in tensors_of(state.key, state)} == {torch.float32}
    error = (output.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error <= (1e-5 if dtype == torch.float32 else 1e-2)
