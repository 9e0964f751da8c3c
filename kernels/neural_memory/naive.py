"""The specification of the neural memory: token by token, gradients by autograd, the weights of every token in full."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import gelu

from memagent.kernels.neural_memory.state import NeuralMemoryState


def memory(inputs: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return M(x), an MLP without biases: ``gelu(... gelu(x W_1) ...) W_L``.

    Args:
        inputs: ``[batch, heads, length, d_in]``.
        weights: One ``[batch, heads, d_in, d_out]`` for each layer.

    Returns:
        ``[batch, heads, length, d_out]`` of the last layer.
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
    """Write and read tokens as `memagent.kernels.neural_memory.neural_memory` describes.

    All computations are in the arguments' types. The result is differentiable, because the inner gradients keep their graph.
    """
    pending = state.pending
    keys, values = torch.cat((state.key, key), 2), torch.cat((state.value, value), 2)
    gates = torch.cat((state.gates, torch.stack((theta, eta, alpha))), 3)
    weights, momentum = list(state.weights), list(state.momentum)
    start = NeuralMemoryState(state.weights, state.momentum, keys, values, gates)  # of the current chunk
    outputs = []
    for token in range(keys.shape[2]):
        if update == "token":
            theta_t, eta_t, alpha_t = (gate[:, :, token, None, None] for gate in gates)
            for layer, gradient in enumerate(_gradients(start.weights, keys, values, token)):
                momentum[layer] = eta_t * momentum[layer] - theta_t * gradient
                weights[layer] = (1 - alpha_t) * weights[layer] + momentum[layer]
        elif (token + 1) % chunk_size == 0:
            weights, momentum = _chunk_step(start, token + 1 - chunk_size, chunk_size)
        if (token + 1) % chunk_size == 0:
            start = NeuralMemoryState(tuple(weights), tuple(momentum), keys, values, gates)
        if token >= pending:
            position = token - pending
            outputs.append(memory(query[:, :, position : position + 1], weights))
    complete = keys.shape[2] // chunk_size * chunk_size
    incomplete = (keys[:, :, complete:], values[:, :, complete:], gates[..., complete:])
    output = torch.cat(outputs, 2) if outputs else query.new_zeros(*query.shape[:3], value.shape[3])
    return output, NeuralMemoryState(start.weights, start.momentum, *incomplete)


def _gradients(weights: Sequence[Tensor], keys: Tensor, values: Tensor, token: int) -> tuple[Tensor, ...]:
    """Return the gradients of ``||M(k_t) - v_t||^2`` at ``weights``; each sample and head has its own."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [weight if weight.requires_grad else weight.detach().requires_grad_() for weight in weights]
        error = memory(keys[:, :, token, None], leaves) - values[:, :, token, None]
        return torch.autograd.grad(error.square().sum(), leaves, create_graph=create_graph)


def _chunk_step(start: NeuralMemoryState, first: int, chunk_size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Take one step for a chunk, with the sum of its tokens' gradient steps and the means of its gates."""
    theta, eta, alpha = start.gates[..., first : first + chunk_size]
    mean_eta, mean_alpha = eta.mean(2)[..., None, None], alpha.mean(2)[..., None, None]
    momentum = [mean_eta * past for past in start.momentum]
    for token in range(chunk_size):
        gradients = _gradients(start.weights, start.key, start.value, first + token)
        theta_t = theta[:, :, token, None, None]
        momentum = [step - theta_t * gradient for step, gradient in zip(momentum, gradients, strict=True)]
    weights = [(1 - mean_alpha) * weight + step for weight, step in zip(start.weights, momentum, strict=True)]
    return weights, momentum
