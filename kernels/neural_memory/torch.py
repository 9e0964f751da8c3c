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
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from memagent.kernels.neural_memory import gates, naive, steps
from memagent.kernels.neural_memory.layout import sequences, stacked
from memagent.kernels.neural_memory.state import NeuralMemoryState

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
    found: tuple[Tensor, ...] = _Recurrence.apply(  # type: ignore[no-untyped-call]
        chunk_size,
        block,
        given.query,
        given.key,
        given.value,
        given.theta,
        *given.coefficients,
        *given.memory,
    )
    return given.answer(found[0], list(found[1:]), query)


def retrieve(query: Tensor, state: NeuralMemoryState, *, update: str = "token") -> Tensor:
    """M(q) without a write, as `memagent.kernels.neural_memory` describes it; differentiable by autograd."""
    weights: Sequence[Tensor] = state.weights
    if update == "token" and state.pending:
        theta, eta, alpha = state.gates.flatten(1, 2).unbind()
        unrolled = gates.of_tokens(eta, alpha, state.pending)
        found = steps.surprise(state.key.flatten(0, 1), state.value.flatten(0, 1), theta, stacked(state))
        memory = steps.write(
            stacked(state),
            found,
            unrolled.carry[:, 0],
            None if unrolled.write is None else unrolled.write[:, 0],
        )
        weights = [layer[:, 0].view_as(weight) for layer, weight in zip(memory, weights, strict=True)]
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

    def of(self, coefficients: Tensor | None) -> Tensor | None:
        return None if coefficients is None else coefficients[:, self.number]

    def square(self, mix: Tensor | None, read: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What the block's queries, of which an unfinished block has fewer, see of its keys and its first memory."""
        if mix is None or read is None:
            return None, None
        count = self.queries.stop - self.queries.start
        return mix[:, self.number, :count, :count], read[:, self.number, :count]


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


class _Recurrence(torch.autograd.Function):
    """All chunks of all memories; layers of the memory are ``[n, 2, i, o]``, see `steps`."""

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
        output = value.new_empty(*query.shape[:2], value.shape[2])
        now: Sequence[Tensor] = memory
        for number, start in enumerate(starts):
            if keep and number % ctx.segment == 0:
                ctx.memories.append(now)
            chunk = slice(start, start + chunk_size)
            found = steps.surprise(key[:, chunk], value[:, chunk], theta[:, chunk], now)
            at, all_hidden = now, []
            for part in _blocks(start, *ctx.sizes):
                rows = found.rows(*part.inside)
                output[:, part.queries], hidden = steps.read(
                    query[:, part.queries], at, rows, *part.square(mix, read)
                )
                all_hidden.append(hidden)
                if part.writes:
                    at = steps.write(at, rows, carry[:, part.number], part.of(write))
            now = at if chunk.stop <= key.shape[1] else now
            if keep:
                ctx.kept.append((found, all_hidden))
        return output, *(layer.clone() for layer in now)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *grad_memory: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        grads: list[Any] = [None if tensor is None else torch.zeros_like(tensor) for tensor in tensors]
        grad_now = [grad.clone() for grad in grad_memory]
        for segment in reversed(range(len(ctx.memories))):
            history = _run_again(ctx, segment)
            for number in reversed(range(len(history))):
                chunk = segment * ctx.segment + number
                grad_now = _chunk_adjoint(ctx, chunk, history[number], grad_output, grads, grad_now)
        return None, None, *grads, *grad_now


def _run_again(ctx: Any, segment: int) -> list[list[Sequence[Tensor]]]:
    """The memory at the start of every block of every chunk of a segment."""
    *_, carry, write = ctx.saved_tensors
    history: list[list[Sequence[Tensor]]] = []
    now = ctx.memories[segment]
    for number in range(segment * ctx.segment, min((segment + 1) * ctx.segment, len(ctx.kept))):
        memories = [now]
        for part in _blocks(number * ctx.sizes[0], *ctx.sizes):
            if part.writes:
                rows = ctx.kept[number][0].rows(*part.inside)
                now = steps.write(now, rows, carry[:, part.number], part.of(write))
                memories.append(now)
        history.append(memories)
    return history


def _chunk_adjoint(
    ctx: Any,
    number: int,
    memories: list[Sequence[Tensor]],
    grad_output: Tensor,
    grads: list[Any],
    grad_after: list[Tensor],
) -> list[Tensor]:
    """Gradients by the memory before a chunk, from those by the one after; the others are put into ``grads``."""
    query, _, _, theta, mix, read, carry, write = ctx.saved_tensors
    grad_query, grad_key, grad_value, grad_theta, grad_mix, grad_read, grad_carry, grad_write = grads
    found, all_hidden = ctx.kept[number]
    chunk_size, _, _, keys = ctx.sizes
    chunk = slice(number * chunk_size, (number + 1) * chunk_size)
    unfinished = chunk.stop > keys  # its writes are for its own queries only
    grad_now = [torch.zeros_like(grad) for grad in grad_after] if unfinished else grad_after
    gradients = found.zeros()
    for place, part in reversed(list(enumerate(_blocks(chunk.start, *ctx.sizes)))):
        rows, grad_rows = found.rows(*part.inside), gradients.rows(*part.inside)
        if part.writes:
            at = part.number
            grad_now, grad_carry[:, at] = steps.write_adjoint(
                memories[place], rows, carry[:, at], part.of(write), grad_rows, grad_now, part.of(grad_write)
            )
        grad_query[:, part.queries] = steps.read_adjoint(
            grad_output[:, part.queries],
            query[:, part.queries],
            all_hidden[place],
            memories[place],
            rows,
            part.square(mix, read),
            grad_rows,
            grad_now,
            part.square(grad_mix, grad_read),
        )
    grad_key[:, chunk], grad_value[:, chunk], grad_theta[:, chunk] = steps.surprise_adjoint(
        memories[0], theta[:, chunk], found, gradients, grad_now
    )
    if unfinished:
        grad_now = [grad.add_(after) for grad, after in zip(grad_now, grad_after, strict=True)]
    return grad_now
