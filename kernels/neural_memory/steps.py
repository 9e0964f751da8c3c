"""One block of tokens: surprise, read and write of the memory, each followed by its adjoint.

Letters: n memories (samples times heads), c tokens of a block or chunk, i and o the widths of a layer. Adjoints are
written by hand, because autograd would keep the weights of every chunk; they add to the gradients they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu


class Memory(NamedTuple):
    """Weights M and momentum S, one ``[n, i, o]`` for each layer; or gradients by them."""

    weights: Sequence[Tensor]
    momentum: Sequence[Tensor]

    def map(self, change: Callable[[Tensor], Tensor]) -> Memory:
        return Memory([change(part) for part in self.weights], [change(part) for part in self.momentum])


class Shares(NamedTuple):
    """A block's part of the coefficients in `gates`, or gradients by it."""

    mix: Tensor | None
    """``[n, queries, c]``"""
    read: Tensor | None
    """``[n, queries, 2]``"""
    carry: Tensor
    """``[n, 2, 2]``"""
    write: Tensor | None
    """``[n, 2, c]``"""


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


def surprise(key: Tensor, value: Tensor, theta: Tensor, weights: Sequence[Tensor]) -> Surprise:
    """Forward and backward of the loss ``||M(k) - v||^2`` (Titans, eq. 12) through the weights."""
    inputs, hidden = [key], []
    for weight in weights[:-1]:
        hidden.append(inputs[-1] @ weight)
        inputs.append(gelu(hidden[-1]))
    slope = 2 * (inputs[-1] @ weights[-1] - value)
    errors = [theta.unsqueeze(2) * slope]  # and so are, the rest being linear, those of the layers below
    for weight, z in zip(reversed(weights[1:]), reversed(hidden), strict=True):
        errors.append(_gelu_adjoint(errors[-1] @ weight.mT, z))
    return Surprise(inputs, hidden, errors[::-1], [slope])


def surprise_adjoint(
    theta: Tensor,
    weights: Sequence[Tensor],
    found: Surprise,
    gradients: Surprise,
    grad_weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by key, value and theta from those by the inputs and errors, which it uses up."""
    grad_x, grad_d = gradients.inputs, gradients.errors
    grad_z = []
    for number, z in enumerate(found.hidden):
        above = found.errors[number + 1]
        grad_z.append((above @ weights[number + 1].mT).mul_(_gelu_bend(z)).mul_(grad_d[number]))
        back = _gelu_adjoint(grad_d[number], z)
        grad_d[number + 1].baddbmm_(back, weights[number + 1])
        grad_weights[number + 1].baddbmm_(back.mT, above)
    grad_theta = (grad_d[-1] * found.slope[0]).sum(2)
    grad_out = grad_d[-1].mul_(2 * theta.unsqueeze(2))
    grad_value = -grad_out
    for number in reversed(range(1, len(weights))):
        grad_weights[number].baddbmm_(found.inputs[number].mT, grad_out)
        grad_x[number].baddbmm_(grad_out, weights[number].mT)
        grad_out = grad_z[number - 1].add_(_gelu_adjoint(grad_x[number], found.hidden[number - 1]))
    grad_weights[0].baddbmm_(found.inputs[0].mT, grad_out)
    return grad_x[0].baddbmm_(grad_out, weights[0].mT), grad_value, grad_theta


def read(query: Tensor, memory: Memory, found: Surprise, shares: Shares) -> tuple[Tensor, list[Tensor]]:
    """M_t(q_t) of a block's queries ``[n, c, i]``, and what went into its activations.

    ``memory`` is that at the block's start, which all queries read if ``shares`` has no ``read``.
    """
    y = query
    hidden: list[Tensor] = []
    for weight, momentum, x, d in zip(*memory, found.inputs, found.errors, strict=True):
        y = gelu(hidden[-1]) if hidden else y
        if shares.mix is None or shares.read is None:
            hidden.append(y @ weight)
            continue
        of_weight, of_momentum = shares.read.unsqueeze(2).unbind(3)
        if y.shape[2] <= weight.shape[2]:  # whichever side is narrower is scaled
            u = (y * of_weight) @ weight
            u.baddbmm_(y * of_momentum, momentum)
        else:
            u = (y @ weight).mul_(of_weight).addcmul_(y @ momentum, of_momentum)
        hidden.append(u.baddbmm_((y @ x.mT).mul_(shares.mix), d, alpha=-1))
    return hidden.pop(), hidden


def read_adjoint(
    grad_out: Tensor,
    query: Tensor,
    hidden: Sequence[Tensor],
    memory: Memory,
    found: Surprise,
    shares: Shares,
    gradients: Surprise,
    grad_memory: Memory,
    grad_shares: Shares,
) -> Tensor:
    """Gradient by the queries; adds those by the memory, the surprise, mix and read."""
    for number in reversed(range(len(memory.weights))):
        y = gelu(hidden[number - 1]) if number else query
        weight, momentum = memory.weights[number], memory.momentum[number]
        grad_weight, grad_momentum = grad_memory.weights[number], grad_memory.momentum[number]
        grad_y = grad_out @ weight.mT
        if shares.mix is None or shares.read is None or grad_shares.mix is None or grad_shares.read is None:
            grad_weight.baddbmm_(y.mT, grad_out)
        else:
            of_weight, of_momentum = shares.read.unsqueeze(2).unbind(3)
            grad_weight.baddbmm_((y * of_weight).mT, grad_out)
            grad_momentum.baddbmm_((y * of_momentum).mT, grad_out)
            through = grad_out @ momentum.mT
            grad_shares.read.add_(torch.stack(((grad_y * y).sum(2), (through * y).sum(2)), 2))
            grad_y.mul_(of_weight).addcmul_(through, of_momentum)

            x, d = found.inputs[number], found.errors[number]
            near = y @ x.mT
            grad_near = (grad_out @ d.mT).neg_()
            grad_shares.mix.addcmul_(grad_near, near)
            gradients.errors[number].baddbmm_(near.mul_(shares.mix).mT, grad_out, alpha=-1)
            grad_near.mul_(shares.mix)
            grad_y.baddbmm_(grad_near, x)
            gradients.inputs[number].baddbmm_(grad_near.mT, y)
        grad_out = _gelu_adjoint(grad_y, hidden[number - 1]) if number else grad_y
    return grad_out


def write(memory: Memory, found: Surprise, shares: Shares, out: Memory) -> Memory:
    """The memory at a block's end, put into ``out``, which is not ``memory``."""
    keep, gain, _, decay = shares.carry.flatten(1)[..., None, None].unbind(1)
    for number, (x, d) in enumerate(zip(found.inputs, found.errors, strict=True)):
        weight, momentum = out.weights[number], out.momentum[number]
        torch.mul(memory.weights[number], keep, out=weight)
        torch.mul(memory.momentum[number], decay, out=momentum)
        if shares.write is None:
            weight.add_(momentum.baddbmm_(x.mT, d, alpha=-1))
        else:
            to_weight, to_momentum = shares.write.unsqueeze(3).unbind(1)
            weight.addcmul_(memory.momentum[number], gain)
            for part, share in ((weight, to_weight), (momentum, to_momentum)):
                if x.shape[2] <= d.shape[2]:  # whichever side is narrower is scaled
                    part.baddbmm_((x * share).mT, d, alpha=-1)
                else:
                    part.baddbmm_(x.mT, d * share, alpha=-1)
    return out


def write_adjoint(
    memory: Memory,
    found: Surprise,
    shares: Shares,
    gradients: Surprise,
    grad_memory: Memory,
    grad_shares: Shares,
    scratch: Sequence[Tensor],
) -> None:
    """Turn the gradients by the memory after into those by the one before; adds those by surprise and shares.

    ``scratch`` is of the weights' shapes: products of such a size are put there, and not into fresh memory.
    """

    def dot(left: Tensor, right: Tensor) -> Tensor:
        return torch.mul(left, right, out=scratch[number]).sum((1, 2))

    keep, gain, _, decay = shares.carry.flatten(1)[..., None, None].unbind(1)
    grad_carry = grad_shares.carry
    for number, (x, d) in enumerate(zip(found.inputs, found.errors, strict=True)):
        weight, momentum = memory.weights[number], memory.momentum[number]
        after, after_momentum = grad_memory.weights[number], grad_memory.momentum[number]
        grad_carry[:, 0, 0] += dot(after, weight)
        if shares.write is None or grad_shares.write is None:
            # M' = keep M + S': what M' wants, S' wants as well.
            after_momentum.add_(after)
            grad_carry[:, 1, 1] += dot(after_momentum, momentum)
            gradients.errors[number].baddbmm_(x, after_momentum, alpha=-1)
            gradients.inputs[number].baddbmm_(d, after_momentum.mT, alpha=-1)
            after_momentum.mul_(decay)
        else:
            grad_carry[:, 0, 1] += dot(after, momentum)
            grad_carry[:, 1, 1] += dot(after_momentum, momentum)
            for row, part in enumerate((after, after_momentum)):
                share = shares.write[:, row].unsqueeze(2)
                through = d @ part.mT
                grad_shares.write[:, row] -= (through * x).sum(2)
                gradients.inputs[number].addcmul_(through, share, value=-1)
                gradients.errors[number].baddbmm_(x * share, part, alpha=-1)
            after_momentum.mul_(decay).addcmul_(after, gain)
        after.mul_(keep)


def _gelu_adjoint(grad: Tensor, z: Tensor) -> Tensor:
    """``grad * gelu'(z)``, in one pass over the numbers."""
    adjoint: Tensor = torch.ops.aten.gelu_backward(grad, z)
    return adjoint


def _gelu_bend(z: Tensor) -> Tensor:
    """``gelu''(z) = phi(z) (2 - z^2)``, phi the normal density."""
    square = z * z
    return (square * -0.5).exp_().mul_(square.sub_(2)).mul_(-1 / sqrt(2 * pi))
