"""The four blocks of Titans: memory as context, as gate, as layer, and alone (section 4)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from memagent.backends.neural.titans.attention import SegmentAttention, SlidingWindowAttention
from memagent.backends.neural.titans.cache import BlockCache
from memagent.backends.neural.titans.config import TitansConfig
from memagent.backends.neural.titans.memory import MemoryContext, NeuralMemory


class FeedForward(nn.Module):
    """A SwiGLU feed-forward network (https://arxiv.org/abs/2002.05202)."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.o_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[batch, length, hidden]`` to the same shape."""
        out: Tensor = self.o_proj(silu(self.gate_proj(inputs)) * self.up_proj(inputs))
        return out


class Gating(nn.Module):
    """The product of attention and memory, ``y (x) M``, both normalised with learnable weights (eq. 28).

    The paper does not say which non-linearity it applies, and to what: here SiLU, to the memory's output.
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.memory_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, attention_output: Tensor, memory_output: Tensor) -> Tensor:
        """Combine two tensors ``[batch, length, hidden]`` into one."""
        out: Tensor = self.attention_norm(attention_output) * silu(self.memory_norm(memory_output))
        return out


class Block(nn.Module, ABC):
    """One block: a token mixer and a feed-forward network, each after a norm and with a residual connection.

    The paper specifies only "residual connections in all blocks". The norms and the feed-forward network are those of its
    Transformer++ baseline. Each block has its own persistent tokens (section 3.3).
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.persistent = (
            nn.Parameter(torch.empty(config.persistent_tokens, config.hidden_size))
            if config.persistent_tokens
            else None
        )
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.feed_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, inputs: Tensor, cache: BlockCache) -> tuple[Tensor, BlockCache]:
        """Read tokens.

        Args:
            inputs: ``[batch, length, hidden]``.
            cache: From the previous call; an empty one at the beginning of the sequence.

        Returns:
            ``[batch, length, hidden]``, and the cache after these tokens.
        """
        mixed, new_cache = self.mix(inputs, cache)
        return mixed + self.feed_forward(self.feed_norm(mixed)), new_cache

    @abstractmethod
    def mix(self, inputs: Tensor, cache: BlockCache) -> tuple[Tensor, BlockCache]:
        """Apply the token mixer with its residual connection; arguments and results as of `forward`."""

    def prefix(self, inputs: Tensor) -> Tensor:
        """Return the persistent tokens, ``[batch, persistent_tokens, hidden]``."""
        if self.persistent is None:
            return inputs[:, :0]
        return self.persistent.expand(len(inputs), -1, -1)


class MemoryAsContext(Block):
    """MAC, eqs. 21 to 25 and fig. 3a: memory answers a segment, attention reads both, memory learns attention's output.

    The paper processes a segment at a time: ``h = M*_{t-1}(q)``, ``y = Attn([p; h; S_t])``, ``M_t = M_{t-1}(y)``,
    ``o = y (x) M*_t(y)``. With M_t as the memory after the whole segment, o would depend on the segment's future. Here token i
    reads the memory that has learned the segment up to i. The memory learns y with its residual, at the segment's own tokens:
    attention alone may ignore the token itself.
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.segment = config.window
        self.attention = SegmentAttention(config)
        self.has_memory = config.memory
        if config.memory:
            self.context = MemoryContext(config)
            self.memory = NeuralMemory(config)
            self.memory_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.gating = Gating(config)

    def mix(self, inputs: Tensor, cache: BlockCache) -> tuple[Tensor, BlockCache]:
        """Mix segment by segment, see `Block.mix`; a segment's queries retrieve from the memory at its start."""
        outputs, start = [], 0
        while start < inputs.shape[1]:
            position = cache.attention.position % self.segment if cache.attention else 0
            stop = min(start + self.segment - position, inputs.shape[1])
            if position == 0:
                cache = self._begin_segment(inputs, cache)
            mixed, cache = self._within_segment(inputs[:, start:stop], cache)
            outputs.append(mixed)
            start = stop
        return (torch.cat(outputs, 1) if outputs else inputs), cache

    def _begin_segment(self, inputs: Tensor, cache: BlockCache) -> BlockCache:
        attention = self.attention.begin(self.prefix(inputs))
        if not self.has_memory:
            return replace(cache, attention=attention)
        segment_memory = cache.memory.state if cache.memory else self.memory.initial_state(len(inputs))
        return replace(cache, attention=attention, segment_memory=segment_memory)

    def _within_segment(self, inputs: Tensor, cache: BlockCache) -> tuple[Tensor, BlockCache]:
        if cache.attention is None:
            raise ValueError("the cache is expected to be that of a segment")
        normed = self.norm(inputs)
        if cache.segment_memory is None:
            attention_output, attention = self.attention(normed, None, cache.attention)
            return inputs + attention_output, replace(cache, attention=attention)
        context, query_conv_state = self.context(normed, cache.segment_memory, cache.query_conv_state)
        attention_output, attention = self.attention(normed, context, cache.attention)
        memory_output, memory = self.memory(self.memory_norm(inputs + attention_output), cache.memory)
        new_cache = BlockCache(attention, memory, cache.segment_memory, query_conv_state)
        return inputs + self.gating(attention_output, memory_output), new_cache


class MemoryAsGate(Block):
    """MAG, eqs. 26 to 28 and fig. 3b: sliding-window attention and memory in parallel, multiplied.

    The memory reads the persistent tokens before the sequence, as in all of the following blocks.
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.attention = SlidingWindowAttention(config)
        self.has_memory = config.memory
        if config.memory:
            self.memory = NeuralMemory(config)
            self.gating = Gating(config)

    def mix(self, inputs: Tensor, cache: BlockCache) -> tuple[Tensor, BlockCache]:
        """Multiply the outputs of attention and memory, see `Block.mix`."""
        normed, prefix = self.norm(inputs), self.prefix(inputs)
        attention_output, attention = self.attention(normed, cache.attention or self.attention.begin(prefix))
        if not self.has_memory:
            return inputs + attention_output, BlockCache(attention)
        if cache.memory is None:
            memory_output, memory = self.memory(torch.cat((prefix, normed), 1), None)
            memory_output = memory_output[:, prefix.shape[1] :]
        else:
            memory_output, memory = self.memory(normed, cache.memory)
        return inputs + self.gating(attention_output, memory_output), BlockCache(attention, memory)


class MemoryAsLayer(Block):
    """MAL, eqs. 29 to 31: sliding-window attention reads the output of memory.

    Both have a residual connection; without it the attention would not see its own tokens. Its persistent tokens are the
    memory's output for them.
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.attention = SlidingWindowAttention(config)
        self.attention_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.memory = NeuralMemory(config) if config.memory else None

    def mix(self, inputs: Tensor, cache: BlockCache) -> tuple[Tensor, BlockCache]:
        """Read memory first, then attend to its output, see `Block.mix`."""
        prefix, memory = self.prefix(inputs), cache.memory
        if self.memory is not None:
            normed = self.norm(inputs)
            if memory is None:
                memory_output, memory = self.memory(torch.cat((prefix, normed), 1), None)
                prefix = prefix + memory_output[:, : prefix.shape[1]]
                inputs = inputs + memory_output[:, prefix.shape[1] :]
            else:
                memory_output, memory = self.memory(normed, memory)
                inputs = inputs + memory_output
        attention = cache.attention or self.attention.begin(self.attention_norm(prefix))
        attention_output, attention = self.attention(self.attention_norm(inputs), attention)
        return inputs + attention_output, BlockCache(attention, memory)


class MemoryAlone(Block):
    """LMM: the memory as the only token mixer, a recurrent layer."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.memory = NeuralMemory(config)

    def mix(self, inputs: Tensor, cache: BlockCache) -> tuple[Tensor, BlockCache]:
        """Add the memory's output, see `Block.mix`."""
        normed = self.norm(inputs)
        if cache.memory is None:
            prefix = self.prefix(inputs)
            memory_output, memory = self.memory(torch.cat((prefix, normed), 1), None)
            memory_output = memory_output[:, prefix.shape[1] :]
        else:
            memory_output, memory = self.memory(normed, cache.memory)
        return inputs + memory_output, BlockCache(memory=memory)


BLOCKS: dict[str, type[Block]] = {
    "mac": MemoryAsContext,
    "mag": MemoryAsGate,
    "mal": MemoryAsLayer,
    "lmm": MemoryAlone,
}
