"""The layer around the neural memory: projections, convolutions, gates, and what it keeps between two calls."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, normalize, silu

from memagent.backends.neural.titans.config import TitansConfig
from memagent.kernels.neural_memory import NeuralMemoryState, neural_memory, retrieve

# Mean of gelu(z)^2 for a standard normal z: what a hidden layer adds to the squared length of its activations.
GELU_ENERGY = 0.425


@dataclass(frozen=True)
class MemoryCache:
    """A memory layer between two calls.

    Attributes:
        tail: The last inputs of the convolution, ``[batch, channels, conv_width - 1]``; of width 0 without one.
        state: What the memory has learnt.
    """

    tail: Tensor
    state: NeuralMemoryState


class CausalConvolution(nn.Module):
    """A depthwise convolution over the tokens so far, after a projection (section 4.4), or nothing where ``width`` is 1.

    Together with the projection before it, it is the paper's depthwise-separable convolution. The width is our choice, as
    the paper gives none: 4, as in Mamba and DeltaNet.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(channels, 1, width)) if width > 1 else None

    def forward(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolve ``[batch, length, channels]``; the tail is that of the call before, or None at the beginning."""
        sequence = inputs.transpose(1, 2)
        if tail is None:
            tail = sequence.new_zeros(*sequence.shape[:2], self.width - 1)
        sequence = torch.cat((tail, sequence), 2)
        after = sequence[:, :, sequence.shape[2] - (self.width - 1) :]
        if self.weight is not None:
            sequence = conv1d(sequence, self.weight, groups=sequence.shape[1])
        return sequence.transpose(1, 2), after


class InitialMemory(nn.ParameterList):
    """M_0, the memory before the first token: one ``[heads, d_in, d_out]`` for each layer, learnt with all else."""

    def __init__(self, config: TitansConfig) -> None:
        widths = [config.head_size, *[config.memory_width] * (config.memory_depth - 1), config.head_size]
        super().__init__(
            nn.Parameter(torch.empty(config.num_attention_heads, d_in, d_out))
            for d_in, d_out in pairwise(widths)
        )

    def first_deviations(self) -> list[float]:
        """Standard deviations of the layers' weights before training."""
        deviations = [1.0] + [(GELU_ENERGY * weight.shape[1]) ** -0.5 for weight in list(self)[1:]]
        deviations[-1] *= 0.1
        return deviations


class Gates(nn.Linear):
    """Theta, eta and alpha of each token and head, eta and alpha only where the memory has them."""

    def __init__(self, config: TitansConfig) -> None:
        self.heads, self.momentum, self.decay = config.num_attention_heads, config.momentum, config.decay
        super().__init__(config.hidden_size, self.heads * (1 + self.momentum + self.decay))
        energy = 1.0 if config.memory_depth == 1 else GELU_ENERGY * config.memory_width
        self.largest_step = config.memory_step / (2 * energy * config.chunk_size)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Gates ``[batch, heads, length]`` each, of ``[batch, length, hidden]``."""
        logits = super().forward(inputs).transpose(1, 2)
        parts = list(logits.sigmoid().chunk(1 + self.momentum + self.decay, 1))
        step = parts.pop(0)
        eta = parts.pop(0) if self.momentum else torch.zeros_like(step)
        alpha = parts.pop(0) if self.decay else torch.zeros_like(step)
        return self.largest_step * step * (1 - eta), eta, alpha

    def first_bias(self) -> Tensor:
        """Before training: sigmoids of 1/2, but for alpha, which is 1/500."""
        bias = torch.zeros_like(self.bias)
        if self.decay:
            bias[-self.heads :] = torch.tensor(1 / 500).logit()
        return bias


class NeuralMemory(nn.Module):
    """A memory that learns what it reads, one for each head, with all that the paper puts around it (section 4.4).

    ``q, k, v = silu(conv(x W))``, queries and keys of length 1 (l2); the memory's answer is normalised, gated by a
    sigmoid of x and projected. The gates theta, eta and alpha are sigmoids of linear functions of x, for each token and head.

    Where the paper is silent:

    - ``theta = memory_step * sigmoid(.) * (1 - eta) / (2 energy chunk_size)``. The energy is the squared length of the
      last layer's input, about ``0.425 memory_width`` (1 for a matrix), so that a sigmoid of 1 / memory_step lets a
      chunk of equal keys remove their whole error, momentum included. A ``memory_step`` up to 2 keeps such chunks from
      overshooting in a matrix; of a deeper memory it bounds the last layer alone. At first the sigmoid is 1/2, eta 1/2 and alpha 1/500: half of what is read is kept for 350 tokens.
    - The initial memory is learnt. Its first layer begins with standard normal weights, because keys have length 1 and
      smaller weights would leave GELU without a bend; the others keep that scale, but for the last one: a tenth.
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

    def start(self, batch: int) -> NeuralMemoryState:
        """The learnt memory, before it has read anything; in float32 whatever the model's type."""
        kind = torch.float64 if self.initial[0].dtype == torch.float64 else torch.float32
        return NeuralMemoryState.initial([weight.to(kind) for weight in self.initial], batch)

    def forward(self, inputs: Tensor, past: MemoryCache | None) -> tuple[Tensor, MemoryCache]:
        """Write each token and answer it, eqs. 11 to 15.

        A token's answer includes what it writes itself, and nothing of later tokens.

        Args:
            inputs: ``[batch, length, hidden]``.
            past: What the call before returned; None begins anew.

        Returns:
            ``[batch, length, hidden]``, and what the next call needs.
        """
        projected, tail = self.convolution(self.qkv_proj(inputs), past.tail if past else None)
        query, key, value = (split(part, self.heads) for part in silu(projected).chunk(3, -1))
        theta, eta, alpha = self.gates(inputs)
        state = past.state if past else self.start(len(inputs))
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
        gated = join(self.norm(read)) * self.gate_proj(inputs).sigmoid()
        return self.o_proj(gated), MemoryCache(tail, state)


class MemoryContext(nn.Module):
    """What the memory says to a segment before the segment is read, ``h = M*_{t-1}(q)`` (eqs. 21 and 22).

    Its queries have a projection and a convolution of their own: what is asked before attention need not be what is
    asked after it.
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.convolution = CausalConvolution(
            config.hidden_size, config.conv_width if config.convolution else 1
        )
        self.norm = nn.RMSNorm(config.head_size, config.rms_norm_eps)

    def forward(self, inputs: Tensor, state: NeuralMemoryState, tail: Tensor | None) -> tuple[Tensor, Tensor]:
        """Ask a memory without writing into it.

        Args:
            inputs: ``[batch, length, hidden]``.
            state: The memory after the segment before.
            tail: What the call before returned, or None at the beginning of the sequence.

        Returns:
            ``[batch, length, hidden]``, and the convolution's tail.
        """
        projected, tail = self.convolution(self.q_proj(inputs), tail)
        query = normalize(split(silu(projected), self.heads), dim=-1)
        return join(self.norm(retrieve(query, state))), tail


def split(inputs: Tensor, heads: int) -> Tensor:
    """``[batch, length, hidden]`` to ``[batch, heads, length, hidden / heads]``."""
    return inputs.reshape(*inputs.shape[:2], heads, inputs.shape[2] // heads).transpose(1, 2)


def join(inputs: Tensor) -> Tensor:
    """What `split` took apart."""
    return inputs.transpose(1, 2).flatten(2)
