"""The neural memory chunk by chunk in plain PyTorch: exact, and no weight is materialised for a token.

- A chunk's gradients are taken at its first weights, so all of them are two matrix products a layer.
- A query is answered from the memory at its block's start and the block's gradients, as in linear attention: see
  `gates`. Long chunks are taken in blocks, because that costs the square of the block.
- The backward pass is written by hand. It keeps activations, and of the memory only about the square root of
  the number of chunks; between these it runs the memory forward again.
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
from memagent.kernels.neural_memory.steps import Memory, Shares

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
    """The neural memory, as `memagent.kernels.neural_memory` describes it; differentiable once in every tensor."""
    block = chunk_size if update == "chunk" else block_size(chunk_size)
    given = sequences(query, key, value, (theta, eta, alpha), state, chunk_size, block, update)
    parts = (given.query, given.key, given.value, given.theta, *given.coefficients)
    found: tuple[Tensor, ...] = _Recurrence.apply(  # type: ignore[no-untyped-call]
        chunk_size, block, *parts, *given.memory.weights, *given.memory.momentum
    )
    return given.answer(found[0], _memory(found[1:]), query)


def retrieve(query: Tensor, state: NeuralMemoryState, *, update: str = "token") -> Tensor:
    """M(q) without a write, as `memagent.kernels.neural_memory` describes it; differentiable by autograd."""
    weights: Sequence[Tensor] = state.weights
    if update == "token" and state.pending:
        theta, eta, alpha = state.gates.flatten(1, 2).unbind()
        _, _, carry, share = gates.of_tokens(eta, alpha, state.pending)
        keep, gain = carry[:, 0, 0, :, None, None].unbind(1)
        memory = memory_of(state)
        found = steps.surprise(state.key.flatten(0, 1), state.value.flatten(0, 1), theta, memory.weights)
        weights = [
            keep * weight + gain * momentum - (x * cast(Tensor, share)[:, 0, 0, :, None]).mT @ d
            for weight, momentum, x, d in zip(*memory, found.inputs, found.errors, strict=True)
        ]
        weights = [new.view_as(weight) for new, weight in zip(weights, state.weights, strict=True)]
    return naive.memory(query.to(state.key.dtype), weights).to(query.dtype)


def block_size(chunk_size: int) -> int:
    """The longest block of at most `LARGEST_BLOCK` tokens that divides a chunk, unless all of these are short."""
    fits = max(size for size in range(1, min(chunk_size, LARGEST_BLOCK) + 1) if chunk_size % size == 0)
    return fits if fits >= 16 else chunk_size


class _Block(NamedTuple):
    number: int
    """Among all blocks, as in the coefficients."""
    queries: slice
    inside: tuple[int, int]
    """Its keys, counted from the chunk's first; none where only queries are left."""
    writes: bool
    """Whether the memory at its end is needed."""

    def of(self, coefficients: Coefficients) -> Shares:
        """The block's part, as views. An unfinished block has fewer queries."""
        mix, read, carry, write = coefficients
        count, at = self.queries.stop - self.queries.start, self.number
        if mix is None or read is None or write is None:
            # The last queries may come after the last whole chunk: no step, hence no coefficients.
            return Shares(
                None, None, carry[:, min(at, carry.shape[1] - 1)] if carry.shape[1] else carry, None
            )
        return Shares(mix[:, at, :count, :count], read[:, at, :count], carry[:, at], write[:, at])


def _blocks(start: int, chunk_size: int, block: int, queries: int, keys: int) -> list[_Block]:
    """The blocks of the chunk that begins at ``start``."""
    stop = min(start + chunk_size, queries)
    whole = start + chunk_size <= keys
    return [
        _Block(
            first // block,
            slice(first, min(first + block, stop)),
            (first - start, first - start + block),
            whole or first + block < stop,
        )
        for first in range(start, stop, block)
    ]


def _memory(tensors: Sequence[Tensor]) -> Memory:
    return Memory(tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :])


class _Recurrence(torch.autograd.Function):
    """All chunks of all memories; the tensors are those of `Sequences`."""

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
        ctx.memories, ctx.kept = [], []
        coefficients = Coefficients(mix, read, carry, write)
        output = value.new_empty(*query.shape[:2], value.shape[2])
        now = _memory(memory)
        # Used in turn, because pages of fresh memory cost more than the arithmetic on them.
        spare = [now.map(torch.empty_like) for _ in range(3)]
        for number, start in enumerate(starts):
            if keep and number % ctx.segment == 0:
                ctx.memories.append(now.map(torch.clone))
            chunk = slice(start, start + chunk_size)
            found = steps.surprise(key[:, chunk], value[:, chunk], theta[:, chunk], now.weights)
            at, all_hidden = now, []
            for part in _blocks(start, *ctx.sizes):
                rows, shares = found.rows(*part.inside), part.of(coefficients)
                output[:, part.queries], hidden = steps.read(query[:, part.queries], at, rows, shares)
                all_hidden.append(hidden)
                if part.writes:
                    out = next(memory for memory in spare if memory is not now and memory is not at)
                    at = steps.write(at, rows, shares, out)
            now = at if chunk.stop <= key.shape[1] else now
            if keep:
                ctx.kept.append((found, all_hidden))
        return output, *(part.clone() for parts in now for part in parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *grad_after: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        grads: list[Any] = [None if tensor is None else torch.zeros_like(tensor) for tensor in tensors]
        grad_memory = _memory([grad.clone(memory_format=torch.contiguous_format) for grad in grad_after])
        history: list[Memory] = []
        scratch = [torch.empty_like(part) for part in grad_memory.weights]
        for segment in reversed(range(len(ctx.memories))):
            chunks = _run_again(ctx, segment, history)
            for number in reversed(range(len(chunks))):
                at = segment * ctx.segment + number
                _chunk_adjoint(ctx, at, history[chunks[number] :], grad_output, grads, grad_memory, scratch)
        return None, None, *grads, *grad_memory.weights, *grad_memory.momentum


def _run_again(ctx: Any, segment: int, history: list[Memory]) -> list[int]:
    """Put the memory at the start of every block of a segment into ``history``; where in it each chunk begins."""
    coefficients = Coefficients(*ctx.saved_tensors[4:])
    first = ctx.memories[segment]
    if not history:
        history.append(first)
    history[0] = first
    places, chunks = 0, []
    for number in range(segment * ctx.segment, min((segment + 1) * ctx.segment, len(ctx.kept))):
        chunks.append(places)
        for part in _blocks(number * ctx.sizes[0], *ctx.sizes):
            if part.writes:
                if places + 1 == len(history):
                    history.append(first.map(torch.empty_like))
                rows = ctx.kept[number][0].rows(*part.inside)
                steps.write(history[places], rows, part.of(coefficients), history[places + 1])
                places += 1
    return chunks


def _chunk_adjoint(
    ctx: Any,
    number: int,
    memories: list[Memory],
    grad_output: Tensor,
    grads: list[Any],
    grad_memory: Memory,
    scratch: list[Tensor],
) -> None:
    """Turn the gradients by the memory after a chunk into those by the one before; the others go into ``grads``.

    ``memories`` begins with those at the start of the chunk's blocks.
    """
    query, _, _, theta, *coefficients = ctx.saved_tensors
    grad_query, grad_key, grad_value, grad_theta, *grad_coefficients = grads
    found, all_hidden = ctx.kept[number]
    chunk_size, _, _, keys = ctx.sizes
    chunk = slice(number * chunk_size, (number + 1) * chunk_size)
    # What an unfinished chunk writes is for its own queries only.
    grad_now = grad_memory.map(torch.zeros_like) if chunk.stop > keys else grad_memory
    gradients = found.zeros()
    for place, part in reversed(list(enumerate(_blocks(chunk.start, *ctx.sizes)))):
        rows, grad_rows = found.rows(*part.inside), gradients.rows(*part.inside)
        shares, grad_shares = part.of(Coefficients(*coefficients)), part.of(Coefficients(*grad_coefficients))
        if part.writes:
            steps.write_adjoint(memories[place], rows, shares, grad_rows, grad_now, grad_shares, scratch)
        asked = (grad_output[:, part.queries], query[:, part.queries], all_hidden[place])
        grad_query[:, part.queries] = steps.read_adjoint(
            *asked, memories[place], rows, shares, grad_rows, grad_now, grad_shares
        )
    grad_key[:, chunk], grad_value[:, chunk], grad_theta[:, chunk] = steps.surprise_adjoint(
        theta[:, chunk], memories[0].weights, found, gradients, grad_now.weights
    )
    if grad_now is not grad_memory:
        for sums, new in zip(
            (*grad_memory.weights, *grad_memory.momentum),
            (*grad_now.weights, *grad_now.momentum),
            strict=True,
        ):
            sums.add_(new)
