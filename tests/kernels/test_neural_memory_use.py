"""The neural memory in use: learning, long sequences, refused arguments, and parity with titans-pytorch."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from memagent.kernels.neural_memory import NeuralMemoryState, neural_memory, retrieve

# Typed without parameters, because mypy does not accept a list of tensors for them.
write: Callable[..., tuple[Tensor, NeuralMemoryState]] = neural_memory
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "neural_memory.py"


def tokens(length: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return query, key, value, theta, eta and alpha; values are a fixed function of keys."""
    key = normalize(torch.randn(1, 2, length, 16, dtype=dtype), dim=-1)
    mapping = torch.randn(2, 16, 8, dtype=dtype)
    value = torch.tanh(key @ mapping)
    theta, eta, alpha = (torch.rand(1, 2, length, dtype=dtype) for _ in range(3))
    return [key, key, value, 0.03 * theta, 0.8 * eta, 0.002 * alpha]


def initial(dtype: torch.dtype = torch.float32) -> NeuralMemoryState:
    weights = [torch.randn(2, 16, 32, dtype=dtype) / 4, torch.randn(2, 32, 8, dtype=dtype) / 32**0.5]
    return NeuralMemoryState.initial(weights, 1)


@pytest.mark.parametrize(
    ("update", "chunk_size"), [("token", 16), ("token", 64), ("chunk", 16), ("chunk", 64)], ids=str
)
def test_64_000_tokens_are_learned_and_stay_bounded(chunk_size: int, update: str) -> None:
    torch.manual_seed(42)
    inputs = tokens(64_000)
    output, state = write(*inputs, initial(), chunk_size=chunk_size, update=update)
    assert output.isfinite().all()
    assert all(part.isfinite().all() for part in state.tensors().values())
    value = inputs[2]
    error = (output - value).square().mean(dim=(0, 1, 3))
    assert error[-1000:].mean() < 0.25 * error[:50].mean()
    assert output.abs().max() < 3 * max(float(value.abs().max()), float(output[:, :, :16].abs().max()))
    assert max(float(weight.abs().max()) for weight in state.weights) < 10


def test_float32_agrees_with_float64_over_thousands_of_tokens() -> None:
    """Rounding errors do not accumulate, because they are forgotten with the weights."""
    torch.manual_seed(43)
    inputs, state = tokens(4_000, torch.float64), initial(torch.float64)
    exact, _ = write(*inputs, state, chunk_size=32)
    single, _ = write(*(tensor.float() for tensor in inputs), state.to(torch.float32), chunk_size=32)
    assert (single - exact).abs().max() < 1e-5


def test_forgetting_everything_leaves_only_the_last_surprise() -> None:
    """With alpha = 1 and eta = 0 the weights are the last token's gradient step alone."""
    torch.manual_seed(44)
    query, key, value, theta, eta, alpha = tokens(5, torch.float64)
    _, state = neural_memory(
        query, key, value, theta, eta * 0, alpha * 0 + 1, initial(torch.float64), chunk_size=1
    )
    assert torch.equal(state.weights[0], state.momentum[0])
    assert torch.linalg.matrix_rank(state.weights[0]).tolist() == [[1, 1]]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(("chunk_size", "length"), [(1, 5), (4, 16), (4, 13), (16, 40)])
@pytest.mark.filterwarnings("default")  # importing it warns
def test_parity_with_titans_pytorch(depth: int, chunk_size: int, length: int) -> None:
    """Compare outputs and gradients on its weights: one step a chunk, gradients at each chunk's first weights."""
    titans_pytorch = pytest.importorskip("titans_pytorch")
    layered: Callable[[Any, str, Tensor], Tensor] = runpy.run_path(str(BENCHMARK))["layer_with_our_memory"]
    torch.manual_seed(45)
    layer = titans_pytorch.NeuralMemory(
        dim=8,
        heads=2,
        dim_head=4,
        chunk_size=chunk_size,
        batch_size=chunk_size,
        mem_model_norm_add_residual=False,
        default_model_kwargs={"depth": depth, "expansion_factor": 2.0},
    ).double()
    sequence = torch.randn(3, length, 8, dtype=torch.float64, requires_grad=True)
    leaves = [sequence, *layer.parameters()]
    results = []
    for output in (layer(sequence)[0], layered(layer, "chunk", sequence)):
        gradients = torch.autograd.grad(
            output.square().sum(), leaves, materialize_grads=True, allow_unused=True
        )
        results.append([output, *gradients])
    for expected, actual in zip(*results, strict=True):
        assert torch.allclose(
            expected, actual, rtol=0, atol=1e-10 * float(expected.detach().abs().max() + 1e-3)
        )


def invalid_call(**changes: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call, some of them replaced: a tensor by a function of it, a field by one of the state."""
    torch.manual_seed(46)
    named = dict(zip(("query", "key", "value", "theta", "eta", "alpha"), tokens(6), strict=True))
    state, options = initial(), {"chunk_size": 4, "update": "token"}
    options |= {name: changes.pop(name) for name in list(changes) if name in options}
    named |= {name: changes.pop(name)(named[name]) for name in list(changes) if name in named}
    return [*named.values(), replace(state, **{name: make(state) for name, make in changes.items()})], options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_size": 0}, "chunk_size is expected to be at least 1 rather than 0"),
        ({"update": "never"}, "update is expected to be token or chunk rather than 'never'"),
        ({"query": lambda query: query[0]}, r"query is expected to be \[batch, heads, length, d_key\]"),
        ({"query": lambda query: query[..., :5]}, r"query is expected to be \[1, 2, length, 16\], as the state"),
        ({"query": lambda query: query[:, :1]}, r"\[1, 2, length, 16\], as the state, rather than \[1, 1, 6, 16\]"),
        ({"key": lambda key: key[:, :, :5]}, r"key is expected to be \[1, 2, 6, 16\] rather than \[1, 2, 5, 16\]"),
        ({"value": lambda value: value[..., :7]}, r"value is expected to be \[1, 2, 6, 8\]"),
        ({"theta": lambda gate: gate[..., None]}, r"theta is expected to be \[1, 2, 6\] rather than \[1, 2, 6, 1\]"),
        ({"eta": lambda gate: gate[:, :1]}, r"eta is expected to be \[1, 2, 6\]"),
        ({"alpha": lambda gate: gate[..., :1]}, r"alpha is expected to be \[1, 2, 6\]"),
        ({"weights": lambda state: ()}, r"weights of a state are expected to be"),
        ({"weights": lambda state: state.weights[::-1]}, r"query is expected to be \[1, 2, length, 32\]"),
        (
            {"weights": lambda state: (state.weights[0], state.weights[1][:, :, :9])},
            r"weights of layer 1 is expected to be \[1, 2, 32, 8\] rather than \[1, 2, 9, 8\]",
        ),
        ({"momentum": lambda state: state.momentum[:1]}, "momentum is expected for each of 2 layers rather than 1"),
        ({"momentum": lambda state: state.momentum[::-1]}, "momentum of layer 0 is expected to be"),
        ({"key": lambda key: key.transpose(2, 3)}, "key is expected to be"),
        ({"gates": lambda state: state.gates[:2]}, r"gates of the state is expected to be \[3, 1, 2, 0\]"),
        ({"gates": lambda state: state.gates.double()}, "float32 and torch.float64"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    arguments, options = invalid_call(**changes)
    with pytest.raises(ValueError, match=message):
        neural_memory(*arguments, **options)


def test_another_chunk_size_than_the_states_is_refused() -> None:
    torch.manual_seed(47)
    _, state = write(*tokens(7), initial(), chunk_size=8)
    with pytest.raises(ValueError, match="fewer tokens than a chunk, 4, rather than 7"):
        write(*tokens(1), state, chunk_size=4)
    with pytest.raises(ValueError, match="token or chunk"):
        retrieve(tokens(1)[0], state, update="never")


def test_invalid_states_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[heads, d_in, d_out\] a layer rather than \[\]"):
        NeuralMemoryState.initial([], 1)
    named = initial().tensors()
    del named["momentum.1"]
    with pytest.raises(ValueError, match=r"'momentum\.1'"):
        NeuralMemoryState.from_tensors(named)
