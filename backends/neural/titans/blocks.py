"""The four ways to build memory into a block: as context, as gate, as layer, and alone (section 4)."""

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
    """SwiGLU (https://arxiv.org/abs/2002.05202), on ``[batch, length, hidden]``."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.o_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.o_proj(silu(self.gate_proj(inputs)) * self.up_proj(inputs))
        return out


class Gating(nn.Module):
    """The paper's ``y (x) M``: both normalised with learnable weights, a non-linearity, and their product (eq. 28).

    The paper does not name the non-linearity nor what it is applied to: SiLU, to what memory says.
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.memory_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, attended: Tensor, remembered: Tensor) -> Tensor:
        out: Tensor = self.attention_norm(attended) * silu(self.memory_norm(remembered))
        return out


class Block(nn.Module, ABC):
    """One block: a mixer of tokens and a feed-forward network, each with a norm before and a residual around it.

    The paper says "residual connections in all blocks" and no more; norms before, and the feed-forward network, are
    those of its Transformer++ baseline. Persistent tokens belong to the block: `prefix` puts them before the sequence.
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

    def forward(self, inputs: Tensor, past: BlockCache) -> tuple[Tensor, BlockCache]:
        """Read ``[batch, length, hidden]`` on from ``past``, which is empty at the beginning of the sequence."""
        mixed, after = self.mix(inputs, past)
        return mixed + self.feed_forward(self.feed_norm(mixed)), after

    @abstractmethod
    def mix(self, inputs: Tensor, past: BlockCache) -> tuple[Tensor, BlockCache]:
        """The mixer with its residual."""

    def prefix(self, inputs: Tensor) -> Tensor:
        """The persistent tokens, ``[batch, persistent_tokens, hidden]``."""
        if self.persistent is None:
            return inputs[:, :0]
        return self.persistent.expand(len(inputs), -1, -1)


class MemoryAsContext(Block):
    """MAC, eqs. 21 to 25 and fig. 3a: memory answers a segment, attention reads both, memory learns the outcome.

    The paper writes a segment at a time: ``h = M*_{t-1}(q)``, ``y = Attn([p; h; S_t])``, ``M_t = M_{t-1}(y)``,
    ``o = y (x) M*_t(y)``. With M_t as the memory after the whole segment, o would know the segment's future; here token i
    reads the memory that has learnt the segment up to i. Only the outputs at the segment's own tokens are learnt, as y with
    the residual: attention alone may leave out the token it stands at.
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

    def mix(self, inputs: Tensor, past: BlockCache) -> tuple[Tensor, BlockCache]:
        outputs, start = [], 0
        while start < inputs.shape[1]:
            position = past.attention.position % self.segment if past.attention else 0
            stop = min(start + self.segment - position, inputs.shape[1])
            if position == 0:
                past = self._begin_segment(inputs, past)
            mixed, past = self._within_segment(inputs[:, start:stop], past)
            outputs.append(mixed)
            start = stop
        return (torch.cat(outputs, 1) if outputs else inputs), past

    def _begin_segment(self, inputs: Tensor, past: BlockCache) -> BlockCache:
        attention = self.attention.begin(self.prefix(inputs))
        if not self.has_memory:
            return replace(past, attention=attention)
        asked = past.memory.state if past.memory else self.memory.start(len(inputs))
        return replace(past, attention=attention, asked=asked)

    def _within_segment(self, inputs: Tensor, past: BlockCache) -> tuple[Tensor, BlockCache]:
        if past.attention is None:
            raise ValueError("a segment is expected to have begun")
        normed = self.norm(inputs)
        if past.asked is None:
            attended, attention = self.attention(normed, None, past.attention)
            return inputs + attended, replace(past, attention=attention)
        context, tail = self.context(normed, past.asked, past.asked_tail)
        attended, attention = self.attention(normed, context, past.attention)
        remembered, memory = self.memory(self.memory_norm(inputs + attended), past.memory)
        after = BlockCache(attention, memory, past.asked, tail)
        return inputs + self.gating(attended, remembered), after


class MemoryAsGate(Block):
    """MAG, eqs. 26 to 28 and fig. 3b: sliding-window attention and memory side by side, multiplied.

    The memory reads the persistent tokens before the sequence, as in all of the following blocks.
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.attention = SlidingWindowAttention(config)
        self.has_memory = config.memory
        if config.memory:
            self.memory = NeuralMemory(config)
            self.gating = Gating(config)

    def mix(self, inputs: Tensor, past: BlockCache) -> tuple[Tensor, BlockCache]:
        normed, prefix = self.norm(inputs), self.prefix(inputs)
        attended, attention = self.attention(normed, past.attention or self.attention.begin(prefix))
        if not self.has_memory:
            return inputs + attended, BlockCache(attention)
        if past.memory is None:
            remembered, memory = self.memory(torch.cat((prefix, normed), 1), None)
            remembered = remembered[:, prefix.shape[1] :]
        else:
            remembered, memory = self.memory(normed, past.memory)
        return inputs + self.gating(attended, remembered), BlockCache(attention, memory)


class MemoryAsLayer(Block):
    """MAL, eqs. 29 to 31: what memory makes of the sequence is what sliding-window attention reads.

    Both have a residual around them; otherwise the attention would not see its own tokens. Its persistent tokens
    are what memory makes of them.
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.attention = SlidingWindowAttention(config)
        self.attention_norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.memory = NeuralMemory(config) if config.memory else None

    def mix(self, inputs: Tensor, past: BlockCache) -> tuple[Tensor, BlockCache]:
        prefix, memory = self.prefix(inputs), past.memory
        if self.memory is not None:
            normed = self.norm(inputs)
            if memory is None:
                remembered, memory = self.memory(torch.cat((prefix, normed), 1), None)
                prefix = prefix + remembered[:, : prefix.shape[1]]
                inputs = inputs + remembered[:, prefix.shape[1] :]
            else:
                remembered, memory = self.memory(normed, memory)
                inputs = inputs + remembered
        attention = past.attention or self.attention.begin(self.attention_norm(prefix))
        attended, attention = self.attention(self.attention_norm(inputs), attention)
        return inputs + attended, BlockCache(attention, memory)


class MemoryAlone(Block):
    """LMM: the memory as the only mixer of tokens, as a recurrent layer."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.memory = NeuralMemory(config)

    def mix(self, inputs: Tensor, past: BlockCache) -> tuple[Tensor, BlockCache]:
        normed = self.norm(inputs)
        if past.memory is None:
            prefix = self.prefix(inputs)
            remembered, memory = self.memory(torch.cat((prefix, normed), 1), None)
            remembered = remembered[:, prefix.shape[1] :]
        else:
            remembered, memory = self.memory(normed, past.memory)
        return inputs + remembered, BlockCache(memory=memory)


BLOCKS: dict[str, type[Block]] = {
    "mac": MemoryAsContext,
    "mag": MemoryAsGate,
    "mal": MemoryAsLayer,
    "lmm": MemoryAlone,
}
