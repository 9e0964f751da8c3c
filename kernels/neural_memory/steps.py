"""The steps of one block of tokens: gradients, read and write of the memory, each followed by its adjoint.

Dimension letters: n memories (samples times heads), c tokens of a block or chunk, i and o the sizes of a layer's input and
output. Adjoints are written by hand, because autograd would keep the weights of every chunk. They add to the gradients that
they are given.
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

    def map(self, function: Callable[[Tensor], Tensor]) -> Memory:
        """Apply a function to every tensor."""
        return Memory(
            [function(weight) for weight in self.weights], [function(step) for step in self.momentum]
        )


class BlockCoefficients(NamedTuple):
    """The coefficients of one block (see `gates.Coefficients`), or gradients by them.

    Attributes:
        mix: ``[n, queries, c]``, or None.
        read: ``[n, queries, 2]``, or None.
        carry: ``[n, 2, 2]``.
        write: ``[n, 2, c]``, or None.
    """

    mix: Tensor | None
    read: Tensor | None
    carry: Tensor
    write: Tensor | None


class GradientFactors(NamedTuple):
    """The factors of the gradient steps of some tokens: the step of layer l and token t is ``x_t outer d_t``.

    Attributes:
        inputs: x, the inputs of all layers, ``[n, c, i]`` each; the first are the keys.
        hidden: z, the inputs of the activations, ``[n, c, o]`` each: one fewer than layers.
        errors: d, theta times the gradients of the loss by the layers' outputs, ``[n, c, o]`` each.
        output_gradient: One tensor, ``[n, c, o]``: the gradient of the loss by M(k), without theta.
    """

    inputs: list[Tensor]
    hidden: list[Tensor]
    errors: list[Tensor]
    output_gradient: list[Tensor]

    def rows(self, start: int, stop: int) -> GradientFactors:
        """Return the factors of some of the tokens, as views."""
        return GradientFactors(*([tensor[:, start:stop] for tensor in tensors] for tensors in self))

    def zeros(self) -> GradientFactors:
        """Return zeros for the gradients by inputs and errors."""
        inputs, errors = (
            [torch.zeros_like(tensor) for tensor in tensors] for tensors in (self.inputs, self.errors)
        )
        return GradientFactors(inputs, [], errors, [])


def gradient_factors(key: Tensor, value: Tensor, theta: Tensor, weights: Sequence[Tensor]) -> GradientFactors:
    """Return the factors of the gradients of ``||M(k) - v||^2`` (Titans, eq. 12) by the weights.

    Args:
        key: ``[n, c, d_key]``.
        value: ``[n, c, d_value]``.
        theta: ``[n, c]``.
        weights: One ``[n, i, o]`` for each layer.
    """
    inputs, hidden = [key], []
    for weight in weights[:-1]:
        hidden.append(inputs[-1] @ weight)
        inputs.append(gelu(hidden[-1]))
    output_gradient = 2 * (inputs[-1] @ weights[-1] - value)
    # Backpropagation is linear, so theta scales the errors of the layers below as well.
    errors = [theta.unsqueeze(2) * output_gradient]
    for weight, z in zip(reversed(weights[1:]), reversed(hidden), strict=True):
        errors.append(_gelu_adjoint(errors[-1] @ weight.mT, z))
    return GradientFactors(inputs, hidden, errors[::-1], [output_gradient])


def gradient_factors_adjoint(
    theta: Tensor,
    weights: Sequence[Tensor],
    factors: GradientFactors,
    grad_factors: GradientFactors,
    grad_weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by key, value and theta; add those by the weights to ``grad_weights``.

    ``grad_factors`` holds the gradients by inputs and errors. It is overwritten.
    """
    grad_x, grad_d = grad_factors.inputs, grad_factors.errors
    grad_z = []
    for layer, z in enumerate(factors.hidden):
        above = factors.errors[layer + 1]
        grad_z.append((above @ weights[layer + 1].mT).mul_(_gelu_second_derivative(z)).mul_(grad_d[layer]))
        back = _gelu_adjoint(grad_d[layer], z)
        grad_d[layer + 1].baddbmm_(back, weights[layer + 1])
        grad_weights[layer + 1].baddbmm_(back.mT, above)
    grad_theta = (grad_d[-1] * factors.output_gradient[0]).sum(2)
    grad_out = grad_d[-1].mul_(2 * theta.unsqueeze(2))
    grad_value = -grad_out
    for layer in reversed(range(1, len(weights))):
        grad_weights[layer].baddbmm_(factors.inputs[layer].mT, grad_out)
        grad_x[layer].baddbmm_(grad_out, weights[layer].mT)
        grad_out = grad_z[layer - 1].add_(_gelu_adjoint(grad_x[layer], factors.hidden[layer - 1]))
    grad_weights[0].baddbmm_(factors.inputs[0].mT, grad_out)
    return grad_x[0].baddbmm_(grad_out, weights[0].mT), grad_value, grad_theta


def read(
    query: Tensor, memory: Memory, factors: GradientFactors, coefficients: BlockCoefficients
) -> tuple[Tensor, list[Tensor]]:
    """Read the memory with a block's queries.

    Args:
        query: ``[n, c, i]``.
        memory: The memory at the block's start; if ``coefficients.read`` is None, all queries read it as it is.
        factors: Of the block's tokens.
        coefficients: Of the block.

    Returns:
        ``M_t(q_t)``, ``[n, c, d_value]``, and the inputs of the activations.
    """
    inputs = query
    hidden: list[Tensor] = []
    for weight, momentum, x, d in zip(*memory, factors.inputs, factors.errors, strict=True):
        inputs = gelu(hidden[-1]) if hidden else inputs
        if coefficients.mix is None or coefficients.read is None:
            hidden.append(inputs @ weight)
            continue
        weight_coefficient, momentum_coefficient = coefficients.read.unsqueeze(2).unbind(3)
        if inputs.shape[2] <= weight.shape[2]:  # the narrower side is scaled
            outputs = (inputs * weight_coefficient) @ weight
            outputs.baddbmm_(inputs * momentum_coefficient, momentum)
        else:
            outputs = (
                (inputs @ weight).mul_(weight_coefficient).addcmul_(inputs @ momentum, momentum_coefficient)
            )
        hidden.append(outputs.baddbmm_((inputs @ x.mT).mul_(coefficients.mix), d, alpha=-1))
    return hidden.pop(), hidden


def read_adjoint(
    grad_out: Tensor,
    query: Tensor,
    hidden: Sequence[Tensor],
    memory: Memory,
    factors: GradientFactors,
    coefficients: BlockCoefficients,
    grad_factors: GradientFactors,
    grad_memory: Memory,
    grad_coefficients: BlockCoefficients,
) -> Tensor:
    """Return the gradient by the queries; add those by the memory, the factors, ``mix`` and ``read``."""
    for layer in reversed(range(len(memory.weights))):
        inputs = gelu(hidden[layer - 1]) if layer else query
        weight, momentum = memory.weights[layer], memory.momentum[layer]
        grad_weight, grad_momentum = grad_memory.weights[layer], grad_memory.momentum[layer]
        grad_inputs = grad_out @ weight.mT
        if (
            coefficients.mix is None
            or coefficients.read is None
            or grad_coefficients.mix is None
            or grad_coefficients.read is None
        ):
            grad_weight.baddbmm_(inputs.mT, grad_out)
        else:
            weight_coefficient, momentum_coefficient = coefficients.read.unsqueeze(2).unbind(3)
            grad_weight.baddbmm_((inputs * weight_coefficient).mT, grad_out)
            grad_momentum.baddbmm_((inputs * momentum_coefficient).mT, grad_out)
            through = grad_out @ momentum.mT
            grad_coefficients.read.add_(
                torch.stack(((grad_inputs * inputs).sum(2), (through * inputs).sum(2)), 2)
            )
            grad_inputs.mul_(weight_coefficient).addcmul_(through, momentum_coefficient)

            x, d = factors.inputs[layer], factors.errors[layer]
            similarity = inputs @ x.mT
            grad_similarity = (grad_out @ d.mT).neg_()
            grad_coefficients.mix.addcmul_(grad_similarity, similarity)
            grad_factors.errors[layer].baddbmm_(similarity.mul_(coefficients.mix).mT, grad_out, alpha=-1)
            grad_similarity.mul_(coefficients.mix)
            grad_inputs.baddbmm_(grad_similarity, x)
            grad_factors.inputs[layer].baddbmm_(grad_similarity.mT, inputs)
        grad_out = _gelu_adjoint(grad_inputs, hidden[layer - 1]) if layer else grad_inputs
    return grad_out


def write(memory: Memory, factors: GradientFactors, coefficients: BlockCoefficients, out: Memory) -> Memory:
    """Write the memory at a block's end into ``out``, another `Memory` of the same shapes, and return it."""
    keep, gain, _, decay = coefficients.carry.flatten(1)[..., None, None].unbind(1)
    for layer, (x, d) in enumerate(zip(factors.inputs, factors.errors, strict=True)):
        weight, momentum = out.weights[layer], out.momentum[layer]
        torch.mul(memory.weights[layer], keep, out=weight)
        torch.mul(memory.momentum[layer], decay, out=momentum)
        if coefficients.write is None:
            weight.add_(momentum.baddbmm_(x.mT, d, alpha=-1))
        else:
            weight_write, momentum_write = coefficients.write.unsqueeze(3).unbind(1)
            weight.addcmul_(memory.momentum[layer], gain)
            for target, coefficient in ((weight, weight_write), (momentum, momentum_write)):
                if x.shape[2] <= d.shape[2]:  # the narrower side is scaled
                    target.baddbmm_((x * coefficient).mT, d, alpha=-1)
                else:
                    target.baddbmm_(x.mT, d * coefficient, alpha=-1)
    return out


def write_adjoint(
    memory: Memory,
    factors: GradientFactors,
    coefficients: BlockCoefficients,
    grad_factors: GradientFactors,
    grad_memory: Memory,
    grad_coefficients: BlockCoefficients,
    scratch: Sequence[Tensor],
) -> None:
    """Replace the gradients by the memory at a block's end with those by the memory at its start.

    Those by the factors and coefficients are added to ``grad_factors`` and ``grad_coefficients``. ``scratch`` has the weights'
    shapes; it takes intermediate products, so that none of this size is allocated.
    """

    def dot(left: Tensor, right: Tensor) -> Tensor:
        return torch.mul(left, right, out=scratch[layer]).sum((1, 2))

    keep, gain, _, decay = coefficients.carry.flatten(1)[..., None, None].unbind(1)
    grad_carry = grad_coefficients.carry
    for layer, (x, d) in enumerate(zip(factors.inputs, factors.errors, strict=True)):
        weight, momentum = memory.weights[layer], memory.momentum[layer]
        after, after_momentum = grad_memory.weights[layer], grad_memory.momentum[layer]
        grad_carry[:, 0, 0] += dot(after, weight)
        if coefficients.write is None or grad_coefficients.write is None:
            # M' = keep M + S', so the gradient by S' includes the gradient by M'.
            after_momentum.add_(after)
            grad_carry[:, 1, 1] += dot(after_momentum, momentum)
            grad_factors.errors[layer].baddbmm_(x, after_momentum, alpha=-1)
            grad_factors.inputs[layer].baddbmm_(d, after_momentum.mT, alpha=-1)
            after_momentum.mul_(decay)
        else:
            grad_carry[:, 0, 1] += dot(after, momentum)
            grad_carry[:, 1, 1] += dot(after_momentum, momentum)
            for row, grad_target in enumerate((after, after_momentum)):
                coefficient = coefficients.write[:, row].unsqueeze(2)
                through = d @ grad_target.mT
                grad_coefficients.write[:, row] -= (through * x).sum(2)
                grad_factors.inputs[layer].addcmul_(through, coefficient, value=-1)
                grad_factors.errors[layer].baddbmm_(x * coefficient, grad_target, alpha=-1)
            after_momentum.mul_(decay).addcmul_(after, gain)
        after.mul_(keep)


def _gelu_adjoint(grad: Tensor, z: Tensor) -> Tensor:
    """Return ``grad * gelu'(z)``, in one pass over the numbers."""
    adjoint: Tensor = torch.ops.aten.gelu_backward(grad, z)
    return adjoint


def _gelu_second_derivative(z: Tensor) -> Tensor:
    """Return ``gelu''(z) = phi(z) (2 - z^2)``, where phi is the normal density."""
    square = z * z
    return (square * -0.5).exp_().mul_(square.sub_(2)).mul_(-1 / sqrt(2 * pi))
