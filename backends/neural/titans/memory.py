"""The layer around the neural memory: projections, convolutions, gates, output norm, and their state between calls."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, normalize, silu

from memagent.backends.neural.titans.config import TitansConfig
from memagent.kernels.neural_memory import NeuralMemoryState, neural_memory, retrieve

# Mean of gelu(z)^2 for a standard normal z: the squared length of a hidden layer's activations, divided by its size.
GELU_ENERGY = 0.425


@dataclass(frozen=True)
class MemoryCache:
    """The state of a memory layer between two calls.

    Attributes:
        conv_state: The last inputs of the convolution, ``[batch, channels, conv_width - 1]``; empty without a convolution.
        state: The state of the neural memory.
    """

    conv_state: Tensor
    state: NeuralMemoryState


class CausalConvolution(nn.Module):
    """A causal depthwise convolution over tokens (section 4.4), or the identity if ``width`` is 1.

    Together with the projection before it, it is the paper's depthwise-separable convolution. The paper gives no width; the
    default of 4 is that of Mamba and DeltaNet.

    Args:
        channels: Size of the inputs.
        width: Kernel size in tokens, the current one included.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(channels, 1, width)) if width > 1 else None

    def forward(self, inputs: Tensor, conv_state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolve a sequence.

        Args:
            inputs: ``[batch, length, channels]``.
            conv_state: From the previous call; None at the beginning of the sequence.

        Returns:
            ``[batch, length, channels]``, and the state for the next call, ``[batch, channels, width - 1]``.
        """
        sequence = inputs.transpose(1, 2)
        if conv_state is None:
            conv_state = sequence.new_zeros(*sequence.shape[:2], self.width - 1)
        sequence = torch.cat((conv_state, sequence), 2)
        new_conv_state = sequence[:, :, sequence.shape[2] - (self.width - 1) :]
        if self.weight is not None:
            sequence = conv1d(sequence, self.weight, groups=sequence.shape[1])
        return sequence.transpose(1, 2), new_conv_state


class InitialMemory(nn.ParameterList):
    """M_0, the memory before the first token: one parameter ``[heads, d_in, d_out]`` for each layer."""

    def __init__(self, config: TitansConfig) -> None:
        widths = [config.head_size, *[config.memory_width] * (config.memory_depth - 1), config.head_size]
        super().__init__(
            nn.Parameter(torch.empty(config.num_attention_heads, d_in, d_out))
            for d_in, d_out in pairwise(widths)
        )

    def initial_deviations(self) -> list[float]:
        """Return the standard deviation of each layer's weights before training."""
        deviations = [1.0] + [(GELU_ENERGY * weight.shape[1]) ** -0.5 for weight in list(self)[1:]]
        deviations[-1] *= 0.1
        return deviations


class Gates(nn.Linear):
    """The gates theta, eta and alpha of each token and head: sigmoids of a linear layer."""

    def __init__(self, config: TitansConfig) -> None:
        self.heads, self.momentum, self.decay = config.num_attention_heads, config.momentum, config.decay
        super().__init__(config.hidden_size, self.heads * (1 + self.momentum + self.decay))
        energy = 1.0 if config.memory_depth == 1 else GELU_ENERGY * config.memory_width
        self.largest_step = config.memory_step / (2 * energy * config.chunk_size)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Return theta, eta and alpha, ``[batch, heads, length]`` each, for ``[batch, length, hidden]``.

        eta is 0 in a memory without momentum, alpha in one without decay.
        """
        logits = super().forward(inputs).transpose(1, 2)
        parts = list(logits.sigmoid().chunk(1 + self.momentum + self.decay, 1))
        step = parts.pop(0)
        eta = parts.pop(0) if self.momentum else torch.zeros_like(step)
        alpha = parts.pop(0) if self.decay else torch.zeros_like(step)
        return self.largest_step * step * (1 - eta), eta, alpha

    def initial_bias(self) -> Tensor:
        """Return the bias before training: all sigmoids are 1/2, except alpha's, which is 1/500."""
        bias = torch.zeros_like(self.bias)
        if self.decay:
            bias[-self.heads :] = torch.tensor(1 / 500).logit()
        return bias


class NeuralMemory(nn.Module):
    """One neural memory for each head, with projections, convolutions and gates (section 4.4).

    ``q, k, v = silu(conv(x W))``, queries and keys normalised to length 1. The memory's output is normalised, gated by a sigmoid
    of x and projected. The gates theta, eta and alpha are sigmoids of linear functions of x, for each token and head.

    The paper leaves open:

    - The scale of theta. Here ``theta = memory_step * sigmoid(.) * (1 - eta) / (2 energy chunk_size)``. The energy is the squared
      length of the last layer's input, about ``0.425 memory_width`` (1 for a matrix), so that a sigmoid of 1 / memory_step
      removes the whole error of a chunk of equal keys, momentum included. With a ``memory_step`` up to 2 such chunks do not
      overshoot in a matrix; in a deeper memory it bounds the last layer only.
    - Initial values of the gates: the sigmoid of theta 1/2, eta 1/2, alpha 1/500 (the memory keeps half of a token after 350).
    - The initial memory, which is learned. Its first layer begins with standard normal weights, because keys have length 1 and
      GELU is almost linear for smaller weights. The other layers keep this scale, except the last, which has a tenth.
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        hidden, heads, size = config.hidden_size, config.num_attention_heads, config.head_size
        self.heads, self.chunk_size = heads, config.chunk_size
        self.initial = InitialMemory(config)
        self.qkv_proj = nn.Linear(hidden, 3 * hidden, bias=False)
        self.convolution = CausalConvolution(3 * hidden, config.conv_width if config.convolution else 1)
        self.gates = Gates(config)
        self.norm = nn.RMSNorm(size, config.rms_norm_eps)
        self.gate_proj = nn.Linear(hidden, hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def initial_state(self, batch: int) -> NeuralMemoryState:
        """Return the state before the first token, in float32 unless the model is in float64."""
        dtype = torch.float64 if self.initial[0].dtype == torch.float64 else torch.float32
        return NeuralMemoryState.initial([weight.to(dtype) for weight in self.initial], batch)

    def forward(self, inputs: Tensor, cache: MemoryCache | None) -> tuple[Tensor, MemoryCache]:
        """Write each token and read the memory with its query, eqs. 11 to 15.

        A token's output depends on its own write and on no later token.

        Args:
            inputs: ``[batch, length, hidden]``.
            cache: From the previous call; None at the beginning of the sequence.

        Returns:
            ``[batch, length, hidden]``, and the cache after these tokens.
        """
        projected, conv_state = self.convolution(self.qkv_proj(inputs), cache.conv_state if cache else None)
        query, key, value = (split_heads(part, self.heads) for part in silu(projected).chunk(3, -1))
        theta, eta, alpha = self.gates(inputs)
        state = cache.state if cache else self.initial_state(len(inputs))
        read, state = neural_memory(
            normalize(query, dim=-1),
            normalize(key, dim=-1),
            value,
            theta,
            eta,
            alpha,
            state,
            chunk_size=self.chunk_size,
        )
        gated = merge_heads(self.norm(read)) * self.gate_proj(inputs).sigmoid()
        return self.o_proj(gated), MemoryCache(conv_state, state)


class MemoryContext(nn.Module):
    """The memory's output for a segment before the segment is written, ``h = M*_{t-1}(q)`` (eqs. 21 and 22).

    Its queries have a projection and a convolution of their own, because queries before attention may differ from those after.
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.convolution = CausalConvolution(
            config.hidden_size, config.conv_width if config.convolution else 1
        )
        self.norm = nn.RMSNorm(config.head_size, config.rms_norm_eps)

    def forward(
        self, inputs: Tensor, state: NeuralMemoryState, conv_state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Read a memory without writing.

        Args:
            inputs: ``[batch, length, hidden]``.
            state: The memory after the previous segment.
            conv_state: From the previous call; None at the beginning of the sequence.

        Returns:
            ``[batch, length, hidden]``, and the convolution's state for the next call.
        """
        projected, conv_state = self.convolution(self.q_proj(inputs), conv_state)
        query = normalize(split_heads(silu(projected), self.heads), dim=-1)
        return merge_heads(self.norm(retrieve(query, state))), conv_state


def split_heads(inputs: Tensor, heads: int) -> Tensor:
    """Reshape ``[batch, length, hidden]`` to ``[batch, heads, length, hidden / heads]``."""
    return inputs.reshape(*inputs.shape[:2], heads, inputs.shape[2] // heads).transpose(1, 2)


def merge_heads(inputs: Tensor) -> Tensor:
    """Reshape ``[batch, heads, length, head_size]`` to ``[batch, length, heads * head_size]``."""
    return inputs.transpose(1, 2).flatten(2)
