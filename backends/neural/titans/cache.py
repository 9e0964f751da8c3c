"""The cache of a Titans model: its state between two calls, of a fixed size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from memagent.backends.neural.cache import GenerationCache
from memagent.backends.neural.titans.attention import AttentionCache
from memagent.backends.neural.titans.memory import MemoryCache
from memagent.kernels.neural_memory import NeuralMemoryState

Part = TypeVar("Part")


@dataclass(frozen=True)
class BlockCache:
    """The state of one block between two calls.

    Attributes:
        attention: The window or segment; None in lmm.
        memory: The neural memory; None without one.
        segment_memory: mac only: the memory after the last complete segment, which the tokens of this segment query.
        query_conv_state: mac only: the state of these queries' convolution, ``[batch, hidden, conv_width - 1]``.
    """

    attention: AttentionCache | None = None
    memory: MemoryCache | None = None
    segment_memory: NeuralMemoryState | None = None
    query_conv_state: Tensor | None = None


class TitansCache(GenerationCache):
    """The windows, convolution states and neural memories of all blocks.

    Each call to the model replaces the blocks' states without changing them, so that a `copy` stays valid.

    Attributes:
        blocks: One state for each block; empty before the first call.
        seen_tokens: The number of tokens read so far.
    """

    def __init__(self) -> None:
        self.blocks: list[BlockCache] = []
        self.seen_tokens = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens read so far, the same in every layer."""
        return self.seen_tokens

    def copy(self) -> TitansCache:
        """Return a cache that continues independently; both share tensors, which no call changes in place."""
        new = TitansCache()
        new.blocks, new.seen_tokens = list(self.blocks), self.seen_tokens
        return new

    def detach(self) -> TitansCache:
        """Return a copy without the graph, for truncated backpropagation."""
        new = self.copy()
        new.blocks = [_map(block, lambda tensor, _: tensor.detach()) for block in self.blocks]
        return new

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Replace each sample with another one of the batch, for beam search.

        Args:
            beam_idx: ``[batch]``: sample i becomes a copy of sample ``beam_idx[i]``.
        """
        self.blocks = [
            _map(block, lambda tensor, batch: tensor.index_select(batch, beam_idx.to(tensor.device)))
            for block in self.blocks
        ]


def _map(part: Part, function: Callable[[Tensor, int], Tensor], batch: int = 0) -> Part:
    """Apply a function of a tensor and its batch dimension to all tensors of nested dataclasses and tuples."""
    result: Any = part
    if isinstance(part, Tensor):
        result = function(part, batch)
    elif isinstance(part, tuple):
        result = tuple(_map(element, function) for element in part)
    elif is_dataclass(part) and not isinstance(part, type):
        # Only the gates of a neural memory have their batch dimension second.
        changed = {
            field.name: _map(getattr(part, field.name), function, int(field.name == "gates"))
            for field in fields(part)
        }
        result = replace(part, **changed)
    return result  # type: ignore[no-any-return]
