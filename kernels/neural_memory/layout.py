"""The layout of tokens and state for the recurrence over chunks: one dimension for samples and heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from memagent.kernels.neural_memory import gates
from memagent.kernels.neural_memory.gates import Coefficients
from memagent.kernels.neural_memory.state import NeuralMemoryState
from memagent.kernels.neural_memory.steps import Memory


@dataclass(frozen=True)
class Sequences:
    """``n = batch * heads`` sequences that begin at the first token of a chunk.

    Attributes:
        query: ``[n, answered + length, d_key]``.
        key: ``[n, pending + length, d_key]``.
        value: ``[n, pending + length, d_value]``.
        theta: ``[n, pending + length]``.
        coefficients: The recurrence's, from eta and alpha.
        memory: Weights and momentum before the first token.
        answered: How many queries at the beginning are zeros, for tokens that an earlier call has answered.
        pending: Key, value and gates of the tokens that stay in an incomplete chunk, as in `NeuralMemoryState`.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    theta: Tensor
    coefficients: Coefficients
    memory: Memory
    answered: int
    pending: tuple[Tensor, Tensor, Tensor]

    def results(self, output: Tensor, memory: Memory, query: Tensor) -> tuple[Tensor, NeuralMemoryState]:
        """Return the outputs in the shape and type of the caller's query, and the state after the last token.

        Args:
            output: ``[n, answered + length, d_value]``, from the recurrence.
            memory: Weights and momentum after the last complete chunk.
            query: ``[batch, heads, length, d_key]``, as the caller gave it.
        """
        weights, momentum = (
            tuple(tensor.view(*query.shape[:2], *tensor.shape[1:]) for tensor in tensors)
            for tensors in memory
        )
        outputs = output[:, self.answered :].reshape(*query.shape[:3], output.shape[2])
        return outputs.to(query.dtype), NeuralMemoryState(weights, momentum, *self.pending)


def sequences(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_gates: tuple[Tensor, Tensor, Tensor],
    state: NeuralMemoryState,
    chunk_size: int,
    block: int,
    update: str,
) -> Sequences:
    """Put the tokens of the state's incomplete chunk before the new tokens.

    Args:
        query: ``[batch, heads, length, d_key]``.
        key: Like ``query``.
        value: ``[batch, heads, length, d_value]``.
        token_gates: theta, eta and alpha, ``[batch, heads, length]`` each.
        state: The memory before the new tokens.
        chunk_size: Tokens of a chunk.
        block: Tokens of a block, for which coefficients are unrolled; it divides ``chunk_size``.
        update: "token" or "chunk".
    """
    dtype = state.key.dtype
    keys = torch.cat((state.key, key.to(dtype)), 2)
    values = torch.cat((state.value, value.to(dtype)), 2)
    all_gates = torch.cat((state.gates, torch.stack(token_gates).to(dtype)), 3)
    theta, eta, alpha = all_gates.flatten(1, 2).unbind()
    # With update "chunk", the query of a chunk's last token reads the memory after the step at the chunk's end. Shifted by
    # one place, the queries of a chunk are exactly those that read its first weights.
    answered = state.pending + (update == "chunk")
    coefficients = gates.chunk_coefficients if update == "chunk" else gates.token_coefficients
    complete = keys.shape[2] // chunk_size * chunk_size
    return Sequences(
        pad(query.to(dtype).flatten(0, 1), (0, 0, answered, 0)),
        keys.flatten(0, 1),
        values.flatten(0, 1),
        theta,
        coefficients(eta, alpha, block),
        memory_of(state),
        answered,
        (keys[:, :, complete:], values[:, :, complete:], all_gates[..., complete:]),
    )


def memory_of(state: NeuralMemoryState) -> Memory:
    """Return the state's weights and momentum as ``[n, d_in, d_out]``."""
    return Memory(state.weights, state.momentum).map(lambda tensor: tensor.flatten(0, 1).contiguous())
