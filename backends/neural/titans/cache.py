"""What a Titans model keeps between two calls, so that it reads every token once: of a size that does not grow."""

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
    """One block between two calls.

    Attributes:
        attention: Its window or segment; None in lmm.
        memory: The neural memory; None without one.
        asked: mac only: the memory after the last whole segment, which the tokens of this one ask.
        asked_tail: mac only: the tail of the convolution of these questions.
    """

    attention: AttentionCache | None = None
    memory: MemoryCache | None = None
    asked: NeuralMemoryState | None = None
    asked_tail: Tensor | None = None


class TitansCache(GenerationCache):
    """The cache of a Titans model: windows, convolutions' tails and neural memories of all blocks.

    Each call to the model replaces its parts, so that a `copy` goes on from where it was taken.
    """

    def __init__(self) -> None:
        self.blocks: list[BlockCache] = []
        self.seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far; the same in every layer."""
        return self.seen

    def copy(self) -> TitansCache:
        """A cache from which to go on without changing this one; they share tensors, which nothing writes into."""
        new = TitansCache()
        new.blocks, new.seen = list(self.blocks), self.seen
        return new

    def detach(self) -> TitansCache:
        """The same numbers without their history: what truncated backpropagation goes on from."""
        new = self.copy()
        new.blocks = [_map(block, lambda tensor, _: tensor.detach()) for block in self.blocks]
        return new

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let sample i go on as sample ``beam_idx[i]``, as beam search asks for."""
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
        result = tuple(_map(one, function) for one in part)
    elif is_dataclass(part) and not isinstance(part, type):
        # The gates of a neural memory alone have their batch second.
        changed = {
            field.name: _map(getattr(part, field.name), function, int(field.name == "gates"))
            for field in fields(part)
        }
        result = replace(part, **changed)
    return result  # type: ignore[no-any-return]
