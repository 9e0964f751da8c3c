"""The specification: token by token, the gradients of the memory by autograd, every weight materialised."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import gelu

from memagent.kernels.neural_memory.state import NeuralMemoryState


def memory(inputs: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """M(x) of Titans, an MLP without biases: ``gelu(... gelu(x W_1) ...) W_L``.

    Args:
        inputs: ``[batch, heads, length, d_in]``.
        weights: One ``[batch, heads, d_in, d_out]`` for each layer.
    """
    for layer, weight in enumerate(weights):
        inputs = (gelu(inputs) if layer else inputs) @ weight
    return inputs


def neural_memory(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    theta: Tensor,
    eta: Tensor,
    alpha: Tensor,
    state: NeuralMemoryState,
    *,
    chunk_size: int,
    update: str = "token",
) -> tuple[Tensor, NeuralMemoryState]:
    """The neural memory, as `memagent.kernels.neural_memory` describes it.

    Computes in the types given. The result is differentiable, because the inner gradients keep their graph.
    """
    pending = state.pending
    keys, values = torch.cat((state.key, key), 2), torch.cat((state.value, value), 2)
    gates = torch.cat((state.gates, torch.stack((theta, eta, alpha))), 3)
    weights, momentum = list(state.weights), list(state.momentum)
    start = NeuralMemoryState(state.weights, state.momentum, keys, values, gates)  # of the current chunk
    outputs = []
    for token in range(keys.shape[2]):
        if update == "token":
            step, decay, forget = (gate[:, :, token, None, None] for gate in gates)
            for layer, gradient in enumerate(_gradients(start.weights, keys, values, token)):
                momentum[layer] = decay * momentum[layer] - step * gradient
                weights[layer] = (1 - forget) * weights[layer] + momentum[layer]
        elif (token + 1) % chunk_size == 0:
            weights, momentum = _step(start, token + 1 - chunk_size, chunk_size)
        if (token + 1) % chunk_size == 0:
            start = NeuralMemoryState(tuple(weights), tuple(momentum), keys, values, gates)
        if token >= pending:
            now = token - pending
            outputs.append(memory(query[:, :, now : now + 1], weights))
    whole = keys.shape[2] // chunk_size * chunk_size
    rest = (keys[:, :, whole:], values[:, :, whole:], gates[..., whole:])
    output = torch.cat(outputs, 2) if outputs else query.new_zeros(*query.shape[:3], value.shape[3])
    return output, NeuralMemoryState(start.weights, start.momentum, *rest)


def _gradients(weights: Sequence[Tensor], keys: Tensor, values: Tensor, token: int) -> tuple[Tensor, ...]:
    """Gradients of ``||M(k_t) - v_t||^2`` at ``weights``; samples and heads have weights of their own."""
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [weight if weight.requires_grad else weight.detach().requires_grad_() for weight in weights]
        error = memory(keys[:, :, token, None], leaves) - values[:, :, token, None]
        return torch.autograd.grad(error.square().sum(), leaves, create_graph=wanted)


def _step(start: NeuralMemoryState, first: int, chunk_size: int) -> tuple[list[Tensor], list[Tensor]]:
    """One step of a whole chunk, from the sum of its tokens' gradients and the means of its gates."""
    theta, eta, alpha = start.gates[..., first : first + chunk_size]
    decay, forget = eta.mean(2)[..., None, None], alpha.mean(2)[..., None, None]
    momentum = [decay * before for before in start.momentum]
    for place in range(chunk_size):
        gradients = _gradients(start.weights, start.key, start.value, first + place)
        step = theta[:, :, place, None, None]
        momentum = [sum_ - step * gradient for sum_, gradient in zip(momentum, gradients, strict=True)]
    weights = [(1 - forget) * weight + sum_ for weight, sum_ in zip(start.weights, momentum, strict=True)]
    return weights, momentum
