"""The cache of a MeMo model: the last tokens of each sequence."""

from __future__ import annotations

from torch import Tensor

from memagent.backends.neural.cache import GenerationCache


class MeMoCache(GenerationCache):
    """The tokens that the next windows need.

    Attributes:
        contexts: For each sequence its last tokens, without padding; empty before the first call.
        seen_tokens: The number of tokens read so far, padding included.
    """

    def __init__(self) -> None:
        self.contexts: list[list[int]] = []
        self.seen_tokens = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens read so far, the same in every layer."""
        return self.seen_tokens

    def copy(self) -> MeMoCache:
        """Return a cache that continues independently."""
        new = MeMoCache()
        new.contexts, new.seen_tokens = [list(context) for context in self.contexts], self.seen_tokens
        return new

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Replace each sample with another one of the batch, for beam search.

        Args:
            beam_idx: ``[batch]``: sample i becomes a copy of sample ``beam_idx[i]``.
        """
        self.contexts = [list(self.contexts[row]) for row in beam_idx.tolist()]
