"""Checks of the neural memory's arguments; each error says what is expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor

from memagent.kernels.neural_memory.state import NeuralMemoryState

UPDATES = ("token", "chunk")


def check_options(chunk_size: int, update: str, state: NeuralMemoryState) -> None:
    """Raise ValueError unless ``chunk_size`` and ``update`` are valid and ``chunk_size`` fits the state."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size is expected to be at least 1 rather than {chunk_size}")
    if state.pending >= chunk_size:
        raise ValueError(
            f"state is expected to hold fewer tokens than a chunk, {chunk_size}, rather than {state.pending}; "
            "all calls that continue a state need the same chunk_size"
        )
    check_update(update)


def check_update(update: str) -> None:
    """Raise ValueError unless ``update`` is "token" or "chunk"."""
    if update not in UPDATES:
        raise ValueError(f"update is expected to be {' or '.join(UPDATES)} rather than {update!r}")


def check_state(query: Tensor, state: NeuralMemoryState) -> None:
    """Raise ValueError unless the state's tensors fit each other, and the query fits the state."""
    weights = state.weights
    if query.dim() != 4:
        raise ValueError(
            f"query is expected to be [batch, heads, length, d_key] rather than {list(query.shape)}"
        )
    if not weights or any(weight.dim() != 4 for weight in weights):
        shapes = [list(weight.shape) for weight in weights]
        raise ValueError(
            f"weights of a state are expected to be [batch, heads, d_in, d_out] a layer rather than {shapes}"
        )
    d_key, d_value = weights[0].shape[2], weights[-1].shape[3]
    if (*query.shape[:2], query.shape[3]) != (*weights[0].shape[:2], d_key):
        expected = [*weights[0].shape[:2], "length", d_key]
        raise ValueError(
            f"query is expected to be {_listed(expected)}, as the state, rather than {list(query.shape)}"
        )
    d_in = d_key
    for layer, weight in enumerate(weights):
        _check_shape(f"weights of layer {layer}", weight, (*query.shape[:2], d_in, weight.shape[3]))
        d_in = weight.shape[3]
    if len(state.momentum) != len(weights):
        raise ValueError(
            f"momentum is expected for each of {len(weights)} layers rather than {len(state.momentum)}"
        )
    for layer, (weight, momentum) in enumerate(zip(weights, state.momentum, strict=True)):
        _check_shape(f"momentum of layer {layer}", momentum, tuple(weight.shape))
    _check_shape("key of the state", state.key, (*query.shape[:2], state.pending, d_key))
    _check_shape("value of the state", state.value, (*query.shape[:2], state.pending, d_value))
    _check_shape("gates of the state", state.gates, (3, *query.shape[:2], state.pending))
    dtypes = {tensor.dtype for tensor in (*weights, *state.momentum, state.key, state.value, state.gates)}
    if dtypes not in ({torch.float32}, {torch.float64}):
        names = " and ".join(sorted(map(str, dtypes)))
        raise ValueError(f"state is expected to be all float32 or all float64 rather than {names}")


def check_tokens(query: Tensor, key: Tensor, value: Tensor, gates: dict[str, Tensor], d_value: int) -> None:
    """Raise ValueError unless there are as many keys, values and gates as queries."""
    _check_shape("key", key, tuple(query.shape))
    _check_shape("value", value, (*query.shape[:3], d_value))
    for name, gate in gates.items():
        _check_shape(name, gate, tuple(query.shape[:3]))


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} is expected to be {list(expected)} rather than {list(tensor.shape)}")


def _listed(shape: list[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"
