"""One block of tokens: surprise, read and write of the memory, each followed by its adjoint.

Letters: n memories (samples times heads), c tokens of a block or chunk, i and o the widths of a layer. A layer of the
memory is ``[n, 2, i, o]``, its weights M and their momentum S. Adjoints are written by hand, because autograd would
keep the weights of every chunk; they add to the lists of gradients they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu

Memory = Sequence[Tensor]


class Surprise(NamedTuple):
    """What the gradient steps of some tokens are made of: that of layer l for token t is ``x_t outer d_t``."""

    inputs: list[Tensor]
    """x, the layers' inputs ``[n, c, i]``; the first are the keys."""
    hidden: list[Tensor]
    """z, what went into the activations, ``[n, c, o]``: one fewer than layers."""
    errors: list[Tensor]
    """d, theta times the gradients of the loss by the layers' outputs, ``[n, c, o]``."""
    slope: list[Tensor]
    """One: the gradient of the loss by M(k), ``[n, c, o]``, without theta."""

    def rows(self, start: int, stop: int) -> Surprise:
        return Surprise(*([part[:, start:stop] for part in parts] for parts in self))

    def zeros(self) -> Surprise:
        """Room for gradients by inputs and errors."""
        inputs, errors = ([torch.zeros_like(part) for part in parts] for parts in (self.inputs, self.errors))
        return Surprise(inputs, [], errors, [])


def surprise(key: Tensor, value: Tensor, theta: Tensor, memory: Memory) -> Surprise:
    """Forward and backward of the loss ``||M(k) - v||^2`` (Titans, eq. 12) through the weights of ``memory``."""
    inputs, hidden = [key], []
    for layer in memory[:-1]:
        hidden.append(inputs[-1] @ layer[:, 0])
        inputs.append(gelu(hidden[-1]))
    slope = 2 * (inputs[-1] @ memory[-1][:, 0] - value)
    errors = [theta.unsqueeze(2) * slope]  # and so are, the rest being linear, those of the layers below
    for layer, z in zip(reversed(memory[1:]), reversed(hidden), strict=True):
        errors.append(_gelu_adjoint(errors[-1] @ layer[:, 0].mT, z))
    return Surprise(inputs, hidden, errors[::-1], [slope])


def surprise_adjoint(
    memory: Memory, theta: Tensor, found: Surprise, gradients: Surprise, grad_memory: Memory
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by key, value and theta from those by the inputs and errors, which it uses up."""
    grad_x, grad_d = gradients.inputs, gradients.errors
    grad_z = []
    for number, z in enumerate(found.hidden):
        weight, above = memory[number + 1][:, 0], found.errors[number + 1]
        grad_z.append((above @ weight.mT).mul_(_gelu_bend(z)).mul_(grad_d[number]))
        back = _gelu_adjoint(grad_d[number], z)
        grad_d[number + 1].baddbmm_(back, weight)
        grad_memory[number + 1][:, 0].baddbmm_(back.mT, above)
    grad_theta = (grad_d[-1] * found.slope[0]).sum(2)
    grad_out = grad_d[-1].mul_(2 * theta.unsqueeze(2))
    grad_value = -grad_out
    for number in reversed(range(1, len(memory))):
        grad_memory[number][:, 0].baddbmm_(found.inputs[number].mT, grad_out)
        grad_x[number].baddbmm_(grad_out, memory[number][:, 0].mT)
        grad_out = grad_z[number - 1].add_(_gelu_adjoint(grad_x[number], found.hidden[number - 1]))
    grad_memory[0][:, 0].baddbmm_(found.inputs[0].mT, grad_out)
    return grad_x[0].baddbmm_(grad_out, memory[0][:, 0].mT), grad_value, grad_theta


def read(
    query: Tensor, memory: Memory, found: Surprise, mix: Tensor | None, carried: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """M_t(q_t), and what went into its activations.

    Args:
        query: ``[n, c, i]``.
        memory: At the block's start.
        found: The block's surprise.
        mix: ``[n, c, c]``; None: every query reads the weights of the block's start.
        carried: ``[n, c, 2]``, what a token sees of M and S at the start; None along with ``mix``.
    """
    y = query
    hidden: list[Tensor] = []
    for layer, x, d in zip(memory, found.inputs, found.errors, strict=True):
        if hidden:
            y = gelu(hidden[-1])
        if mix is None or carried is None:
            hidden.append(y @ layer[:, 0])
        else:
            u = _twice(carried, y) @ layer.flatten(1, 2)
            hidden.append(u.baddbmm_((y @ x.mT).mul_(mix), d, alpha=-1))
    return hidden.pop(), hidden


def read_adjoint(
    grad_out: Tensor,
    query: Tensor,
    hidden: Sequence[Tensor],
    memory: Memory,
    found: Surprise,
    coefficients: tuple[Tensor | None, Tensor | None],
    gradients: Surprise,
    grad_memory: Memory,
    grad_coefficients: tuple[Tensor | None, Tensor | None],
) -> Tensor:
    """Gradient by the queries; adds those by the memory, the surprise and the coefficients (mix, read)."""
    mix, carried = coefficients
    grad_mix, grad_carried = grad_coefficients
    for number in reversed(range(len(memory))):
        y = gelu(hidden[number - 1]) if number else query
        layer = memory[number]
        if mix is None or carried is None or grad_mix is None or grad_carried is None:
            grad_memory[number][:, 0].baddbmm_(y.mT, grad_out)
            grad_y = grad_out @ layer[:, 0].mT
        else:
            x, d = found.inputs[number], found.errors[number]
            grad_memory[number].flatten(1, 2).baddbmm_(_twice(carried, y).mT, grad_out)
            both = (grad_out @ layer.flatten(1, 2).mT).view(*y.shape[:2], 2, -1)  # [n, c, 2, i]
            grad_carried.add_((both @ y.unsqueeze(3)).squeeze(3))
            grad_y = (carried.unsqueeze(2) @ both).squeeze(2)
            near = y @ x.mT
            grad_near = (grad_out @ d.mT).neg_()
            grad_mix.addcmul_(grad_near, near)
            gradients.errors[number].baddbmm_(near.mul_(mix).mT, grad_out, alpha=-1)
            grad_near.mul_(mix)
            grad_y.baddbmm_(grad_near, x)
            gradients.inputs[number].baddbmm_(grad_near.mT, y)
        grad_out = _gelu_adjoint(grad_y, hidden[number - 1]) if number else grad_y
    return grad_out


def write(memory: Memory, found: Surprise, carry: Tensor, shares: Tensor | None) -> list[Tensor]:
    """The memory at a block's end; ``carry`` is ``[n, 2, 2]``, ``shares`` ``[n, 2, c]`` or None, see `gates`."""
    after = []
    for layer, x, d in zip(memory, found.inputs, found.errors, strict=True):
        gradient = (x if shares is None else _twice(shares.mT, x)).mT @ d
        carried = (carry @ layer.flatten(2)).view_as(layer)
        after.append(carried.sub_(gradient.view(len(x), -1, *layer.shape[2:])))
    return after


def write_adjoint(
    memory: Memory,
    found: Surprise,
    carry: Tensor,
    shares: Tensor | None,
    gradients: Surprise,
    grad_memory: Memory,
    grad_shares: Tensor | None,
) -> tuple[list[Tensor], Tensor]:
    """Gradients by the memory before and by carry, from those by the memory after; adds to the others."""
    before, grad_carry = [], torch.zeros_like(carry)
    for number, (layer, after) in enumerate(zip(memory, grad_memory, strict=True)):
        x, d = found.inputs[number], found.errors[number]
        grad_carry.baddbmm_(after.flatten(2), layer.flatten(2).mT)
        before.append((carry.mT @ after.flatten(2)).view_as(layer))
        if shares is None or grad_shares is None:
            down = after.sum(1)
            gradients.errors[number].baddbmm_(x, down, alpha=-1)
            gradients.inputs[number].baddbmm_(d, down.mT, alpha=-1)
        else:
            down = after.flatten(1, 2)
            gradients.errors[number].baddbmm_(_twice(shares.mT, x), down, alpha=-1)
            both = (d @ down.mT).view(*d.shape[:2], 2, -1)  # [n, c, 2, i]
            grad_shares.sub_((both * x.unsqueeze(2)).sum(3).mT)
            gradients.inputs[number].sub_((shares.mT.unsqueeze(2) @ both).squeeze(2))
    return before, grad_carry


def _twice(factors: Tensor, rows: Tensor) -> Tensor:
    """``[n, c, 2]`` and ``[n, c, i]`` to ``[n, c, 2 * i]``: each row times each of its factors, side by side."""
    return (factors.unsqueeze(3) * rows.unsqueeze(2)).flatten(2)


def _gelu_adjoint(grad: Tensor, z: Tensor) -> Tensor:
    """``grad * gelu'(z)``, in one pass over the numbers."""
    adjoint: Tensor = torch.ops.aten.gelu_backward(grad, z)
    return adjoint


def _gelu_bend(z: Tensor) -> Tensor:
    """``gelu''(z) = phi(z) (2 - z^2)``, phi the normal density."""
    square = z * z
    return (square * -0.5).exp_().mul_(square.sub_(2)).mul_(-1 / sqrt(2 * pi))
