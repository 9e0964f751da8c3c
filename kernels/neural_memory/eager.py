"""The neural memory chunk by chunk in plain PyTorch: exact, without the weights of single tokens.

- The gradients of a chunk are taken at the same weights, so they take two matrix products a layer.
- A query reads the memory at its block's start and the block's gradients, as in linear attention (see `gates`). Long chunks
  are split into blocks, because this costs the square of the block.
- The backward pass is written by hand. It keeps all activations, but only about the square root of the number of memories;
  it runs the memory forward again from each of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from memagent.kernels.neural_memory import gates, naive, steps
from memagent.kernels.neural_memory.gates import Coefficients
from memagent.kernels.neural_memory.layout import memory_of, sequences
from memagent.kernels.neural_memory.state import NeuralMemoryState
from memagent.kernels.neural_memory.steps import BlockCoefficients, Memory

LARGEST_BLOCK = 64


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
    """Write and read tokens as `memagent.kernels.neural_memory.neural_memory` describes; differentiable once."""
    block = chunk_size if update == "chunk" else block_size(chunk_size)
    layout = sequences(query, key, value, (theta, eta, alpha), state, chunk_size, block, update)
    tokens = (layout.query, layout.key, layout.value, layout.theta, *layout.coefficients)
    output, *memory = _Recurrence.apply(  # type: ignore[no-untyped-call]
        chunk_size, block, *tokens, *layout.memory.weights, *layout.memory.momentum
    )
    return layout.results(output, _memory(memory), query)


def retrieve(query: Tensor, state: NeuralMemoryState, *, update: str = "token") -> Tensor:
    """Read the memory as `memagent.kernels.neural_memory.retrieve` describes; differentiable by autograd."""
    weights: Sequence[Tensor] = state.weights
    if update == "token" and state.pending:
        theta, eta, alpha = state.gates.flatten(1, 2).unbind()
        _, _, carry, write = gates.token_coefficients(eta, alpha, state.pending)
        keep, gain = carry[:, 0, 0, :, None, None].unbind(1)
        memory = memory_of(state)
        keys, values = state.key.flatten(0, 1), state.value.flatten(0, 1)
        factors = steps.gradient_factors(keys, values, theta, memory.weights)
        weights = [
            keep * weight + gain * momentum - (x * cast(Tensor, write)[:, 0, 0, :, None]).mT @ d
            for weight, momentum, x, d in zip(*memory, factors.inputs, factors.errors, strict=True)
        ]
        weights = [new.view_as(weight) for new, weight in zip(weights, state.weights, strict=True)]
    return naive.memory(query.to(state.key.dtype), weights).to(query.dtype)


def block_size(chunk_size: int) -> int:
    """Return the size of the blocks of a chunk, which divides ``chunk_size``.

    It is the largest divisor up to `LARGEST_BLOCK`, or the chunk itself if this divisor is below 16.
    """
    largest = max(size for size in range(1, min(chunk_size, LARGEST_BLOCK) + 1) if chunk_size % size == 0)
    return largest if largest >= 16 else chunk_size


class _Block(NamedTuple):
    """The place of a block in a sequence.

    Attributes:
        number: Among all blocks, as in the coefficients.
        queries: Its queries in the sequence; an incomplete block has fewer.
        key_rows: First key and the key after the last, counted from the chunk's first.
        writes: Whether the memory at its end is needed.
    """

    number: int
    queries: slice
    key_rows: tuple[int, int]
    writes: bool

    def coefficients(self, coefficients: Coefficients) -> BlockCoefficients:
        """Return the block's coefficients, as views."""
        mix, read, carry, write = coefficients
        count, index = self.queries.stop - self.queries.start, self.number
        if mix is None or read is None or write is None:
            # The last queries may come after the last complete chunk: no step, hence no coefficients.
            carry = carry[:, min(index, carry.shape[1] - 1)] if carry.shape[1] else carry
            return BlockCoefficients(None, None, carry, None)
        return BlockCoefficients(
            mix[:, index, :count, :count], read[:, index, :count], carry[:, index], write[:, index]
        )


def _blocks(start: int, chunk_size: int, block: int, queries: int, keys: int) -> list[_Block]:
    """Return the blocks of the chunk that begins at ``start``."""
    stop = min(start + chunk_size, queries)
    complete = start + chunk_size <= keys
    return [
        _Block(
            first // block,
            slice(first, min(first + block, stop)),
            (first - start, first - start + block),
            complete or first + block < stop,
        )
        for first in range(start, stop, block)
    ]


def _memory(tensors: Sequence[Tensor]) -> Memory:
    return Memory(tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :])


class _Recurrence(torch.autograd.Function):
    """The recurrence over all chunks of all memories; its tensors are those of `Sequences`."""

    @staticmethod
    def forward(
        ctx: Any,
        chunk_size: int,
        block: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        theta: Tensor,
        mix: Tensor | None,
        read: Tensor | None,
        carry: Tensor,
        write: Tensor | None,
        *memory: Tensor,
    ) -> tuple[Tensor, ...]:
        keep = any(ctx.needs_input_grad)
        starts = range(0, query.shape[1], chunk_size)
        ctx.sizes, ctx.segment = (chunk_size, block, query.shape[1], key.shape[1]), isqrt(len(starts)) + 1
        ctx.save_for_backward(query, key, value, theta, mix, read, carry, write)
        ctx.memories, ctx.activations = [], []
        coefficients = Coefficients(mix, read, carry, write)
        output = value.new_empty(*query.shape[:2], value.shape[2])
        at_chunk = _memory(memory)
        # Buffers used in turn: fresh pages of memory cost more than the arithmetic on them.
        buffers = [at_chunk.map(torch.empty_like) for _ in range(3)]
        for number, start in enumerate(starts):
            if keep and number % ctx.segment == 0:
                ctx.memories.append(at_chunk.map(torch.clone))
            chunk = slice(start, start + chunk_size)
            factors = steps.gradient_factors(
                key[:, chunk], value[:, chunk], theta[:, chunk], at_chunk.weights
            )
            at_block, chunk_hidden = at_chunk, []
            for place in _blocks(start, *ctx.sizes):
                rows, of_block = factors.rows(*place.key_rows), place.coefficients(coefficients)
                output[:, place.queries], hidden = steps.read(
                    query[:, place.queries], at_block, rows, of_block
                )
                chunk_hidden.append(hidden)
                if place.writes:
                    buffer = next(free for free in buffers if free is not at_chunk and free is not at_block)
                    at_block = steps.write(at_block, rows, of_block, buffer)
            at_chunk = at_block if chunk.stop <= key.shape[1] else at_chunk
            if keep:
                ctx.activations.append((factors, chunk_hidden))
        return output, *(tensor.clone() for tensors in at_chunk for tensor in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *grad_after: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        grads: list[Any] = [None if tensor is None else torch.zeros_like(tensor) for tensor in tensors]
        grad_memory = _memory([grad.clone(memory_format=torch.contiguous_format) for grad in grad_after])
        history: list[Memory] = []
        scratch = [torch.empty_like(weight) for weight in grad_memory.weights]
        for segment in reversed(range(len(ctx.memories))):
            chunk_starts = _recompute(ctx, segment, history)
            for number in reversed(range(len(chunk_starts))):
                memories = history[chunk_starts[number] :]
                chunk = segment * ctx.segment + number
                _chunk_adjoint(ctx, chunk, memories, grad_output, grads, grad_memory, scratch)
        return None, None, *grads, *grad_memory.weights, *grad_memory.momentum


def _recompute(ctx: Any, segment: int, history: list[Memory]) -> list[int]:
    """Fill ``history`` with the memory at the start of every block of a segment; return each chunk's first index in it."""
    coefficients = Coefficients(*ctx.saved_tensors[4:])
    first = ctx.memories[segment]
    if not history:
        history.append(first)
    history[0] = first
    num_blocks, chunk_starts = 0, []
    for chunk in range(segment * ctx.segment, min((segment + 1) * ctx.segment, len(ctx.activations))):
        chunk_starts.append(num_blocks)
        for place in _blocks(chunk * ctx.sizes[0], *ctx.sizes):
            if place.writes:
                if num_blocks + 1 == len(history):
                    history.append(first.map(torch.empty_like))
                rows = ctx.activations[chunk][0].rows(*place.key_rows)
                steps.write(
                    history[num_blocks], rows, place.coefficients(coefficients), history[num_blocks + 1]
                )
                num_blocks += 1
    return chunk_starts


def _chunk_adjoint(
    ctx: Any,
    number: int,
    memories: list[Memory],
    grad_output: Tensor,
    grads: list[Any],
    grad_memory: Memory,
    scratch: list[Tensor],
) -> None:
    """Replace the gradients by the memory after a chunk with those by the memory before it; add the others to ``grads``.

    ``memories`` begins with the memories at the start of the chunk's blocks.
    """
    query, _, _, theta, *coefficients = ctx.saved_tensors
    grad_query, grad_key, grad_value, grad_theta, *grad_coefficients = grads
    factors, chunk_hidden = ctx.activations[number]
    chunk_size, _, _, keys = ctx.sizes
    chunk = slice(number * chunk_size, (number + 1) * chunk_size)
    # The writes of an incomplete chunk are read by its own queries only.
    grad_now = grad_memory.map(torch.zeros_like) if chunk.stop > keys else grad_memory
    grad_factors = factors.zeros()
    for index, place in reversed(list(enumerate(_blocks(chunk.start, *ctx.sizes)))):
        rows, grad_rows = factors.rows(*place.key_rows), grad_factors.rows(*place.key_rows)
        of_block = place.coefficients(Coefficients(*coefficients))
        grad_of_block = place.coefficients(Coefficients(*grad_coefficients))
        if place.writes:
            steps.write_adjoint(memories[index], rows, of_block, grad_rows, grad_now, grad_of_block, scratch)
        queries = (grad_output[:, place.queries], query[:, place.queries], chunk_hidden[index])
        grad_query[:, place.queries] = steps.read_adjoint(
            *queries, memories[index], rows, of_block, grad_rows, grad_now, grad_of_block
        )
    grad_key[:, chunk], grad_value[:, chunk], grad_theta[:, chunk] = steps.gradient_factors_adjoint(
        theta[:, chunk], memories[0].weights, factors, grad_factors, grad_now.weights
    )
    if grad_now is not grad_memory:
        for total, gradient in zip(
            (*grad_memory.weights, *grad_memory.momentum),
            (*grad_now.weights, *grad_now.momentum),
            strict=True,
        ):
            total.add_(gradient)
