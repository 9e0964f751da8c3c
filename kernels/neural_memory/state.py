"""The state of a neural memory between two calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class NeuralMemoryState:
    """The state of a neural memory after any number of tokens.

    The keys, values and gates of an incomplete chunk are part of it, because the rest of the chunk takes its gradients at the
    same weights. There are ``pending`` such tokens, 0 to ``chunk_size - 1``.

    Attributes:
        weights: M at the start of the current chunk, one ``[batch, heads, d_in, d_out]`` for each layer.
        momentum: S at the start of the current chunk, of the same shapes.
        key: ``[batch, heads, pending, d_key]``.
        value: ``[batch, heads, pending, d_value]``.
        gates: ``[3, batch, heads, pending]``: theta, eta and alpha.
    """

    weights: tuple[Tensor, ...]
    momentum: tuple[Tensor, ...]
    key: Tensor
    value: Tensor
    gates: Tensor

    @classmethod
    def initial(cls, weights: Sequence[Tensor], batch: int) -> Self:
        """Return the state before the first token.

        Args:
            weights: M_0, one ``[heads, d_in, d_out]`` for each layer. Gradients flow into them.
            batch: The number of sequences that begin with these weights.

        Raises:
            ValueError: There are no weights, or they are not three-dimensional.
        """
        if not weights or any(weight.dim() != 3 for weight in weights):
            shapes = [list(weight.shape) for weight in weights]
            raise ValueError(f"weights are expected to be [heads, d_in, d_out] a layer rather than {shapes}")
        repeated = tuple(weight.expand(batch, *weight.shape) for weight in weights)
        first, last = repeated[0], repeated[-1]
        heads = first.shape[1]
        return cls(
            weights=repeated,
            momentum=tuple(torch.zeros_like(weight) for weight in repeated),
            key=first.new_zeros(batch, heads, 0, first.shape[2]),
            value=first.new_zeros(batch, heads, 0, last.shape[3]),
            gates=first.new_zeros(3, batch, heads, 0),
        )

    @property
    def pending(self) -> int:
        """The number of tokens in the current, incomplete chunk."""
        return self.key.shape[2]

    def detach(self) -> Self:
        """Return the state without its graph, for truncated backpropagation."""
        return type(self)(
            weights=tuple(weight.detach() for weight in self.weights),
            momentum=tuple(momentum.detach() for momentum in self.momentum),
            key=self.key.detach(),
            value=self.value.detach(),
            gates=self.gates.detach(),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, contiguous and detached, for safetensors."""
        named = {"key": self.key, "value": self.value, "gates": self.gates}
        named |= {f"weights.{layer}": weight for layer, weight in enumerate(self.weights)}
        named |= {f"momentum.{layer}": momentum for layer, momentum in enumerate(self.momentum)}
        return {name: tensor.detach().clone().contiguous() for name, tensor in named.items()}

    @classmethod
    def from_tensors(cls, named: Mapping[str, Tensor]) -> Self:
        """Return the state with the tensors that `tensors` returned.

        Raises:
            ValueError: Names are missing, or unknown.
        """
        num_layers = sum(name.startswith("weights.") for name in named)
        expected = {"key", "value", "gates"}
        expected |= {
            f"{kind}.{layer}" for kind in ("weights", "momentum") for layer in range(max(num_layers, 1))
        }
        if set(named) != expected:
            raise ValueError(f"tensors are expected to be {sorted(expected)} rather than {sorted(named)}")
        layers = {
            kind: tuple(named[f"{kind}.{layer}"] for layer in range(num_layers))
            for kind in ("weights", "momentum")
        }
        return cls(**layers, **{name: named[name] for name in ("key", "value", "gates")})  # type: ignore[arg-type]

    def to(self, target: torch.device | torch.dtype) -> Self:
        """Return the state on another device or in another floating type."""
        return type(self)(
            weights=tuple(weight.to(target) for weight in self.weights),
            momentum=tuple(momentum.to(target) for momentum in self.momentum),
            key=self.key.to(target),
            value=self.value.to(target),
            gates=self.gates.to(target),
        )
