"""Tokens and state as the recurrence over chunks wants them: samples and heads in one, coefficients for gates."""

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
    """``n = batch * heads`` sequences that begin at the first token of a chunk."""

    query: Tensor
    """``[n, before + length, d_key]``. ``before`` is how many zeros stand for tokens that were answered earlier."""
    key: Tensor
    """``[n, pending + length, d_key]``."""
    value: Tensor
    theta: Tensor
    """``[n, pending + length]``."""
    coefficients: Coefficients
    memory: Memory
    before: int
    rest: tuple[Tensor, Tensor, Tensor]
    """Key, value and gates of the chunk that stays unfinished, as in the state."""

    def answer(self, output: Tensor, memory: Memory, like: Tensor) -> tuple[Tensor, NeuralMemoryState]:
        """Outputs of the queries and the state afterwards, from what the recurrence returned."""
        weights, momentum = (
            tuple(part.view(*like.shape[:2], *part.shape[1:]) for part in parts) for parts in memory
        )
        answers = output[:, self.before :].reshape(*like.shape[:3], output.shape[2])
        return answers.to(like.dtype), NeuralMemoryState(weights, momentum, *self.rest)


def sequences(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    all_gates: tuple[Tensor, Tensor, Tensor],
    state: NeuralMemoryState,
    chunk_size: int,
    block: int,
    update: str,
) -> Sequences:
    """Put the state's unfinished chunk before the tokens; ``block`` tokens share coefficients."""
    dtype = state.key.dtype
    keys = torch.cat((state.key, key.to(dtype)), 2)
    values = torch.cat((state.value, value.to(dtype)), 2)
    every_gate = torch.cat((state.gates, torch.stack(all_gates).to(dtype)), 3)
    theta, eta, alpha = every_gate.flatten(1, 2).unbind()
    # The step at a chunk's end is seen by the query of the chunk's last token. One place later, the queries
    # of a chunk are just those that see its first weights.
    before = state.pending + (update == "chunk")
    whole = keys.shape[2] // chunk_size * chunk_size
    return Sequences(
        pad(query.to(dtype).flatten(0, 1), (0, 0, before, 0)),
        keys.flatten(0, 1),
        values.flatten(0, 1),
        theta,
        (gates.of_chunks if update == "chunk" else gates.of_tokens)(eta, alpha, block),
        memory_of(state),
        before,
        (keys[:, :, whole:], values[:, :, whole:], every_gate[..., whole:]),
    )


def memory_of(state: NeuralMemoryState) -> Memory:
    """Weights and momentum, ``[n, d_in, d_out]``."""
    return Memory(state.weights, state.momentum).map(lambda part: part.flatten(0, 1).contiguous())
