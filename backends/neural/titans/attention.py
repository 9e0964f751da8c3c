"""Attention to recent tokens and to persistent ones: in a sliding window (mag, mal) or within segments (mac)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memagent.backends.neural.titans.config import TitansConfig
from memagent.backends.neural.titans.memory import merge_heads, split_heads


@dataclass(frozen=True)
class AttentionCache:
    """The keys and values that later tokens may attend to, ``[batch, heads, tokens, head_size]`` each.

    Attributes:
        key, value: Those of the tokens in the window, or of the segment so far; keys are rotated.
        prefix_key, prefix_value: Those of the persistent tokens; keys are not rotated.
        position: The position of the next token, in the sequence (sliding window) or in its segment.
    """

    key: Tensor
    value: Tensor
    prefix_key: Tensor
    prefix_value: Tensor
    position: int


class Attention(nn.Module):
    """Multi-head attention with rotary positions, and persistent tokens without positions.

    The score of a persistent token is that of the unrotated query and key. It does not depend on the query's position, so it
    holds beyond the length of training too. (The paper prepends these tokens and does not give their positions.)
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.heads, self.head_size, self.window = config.num_attention_heads, config.head_size, config.window
        self.rope_theta = config.rope_theta
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, hidden, bias=False)
        self.v_proj = nn.Linear(hidden, hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def begin(self, prefix: Tensor) -> AttentionCache:
        """Return the cache before the first token.

        Args:
            prefix: Persistent tokens, ``[batch, persistent, hidden]``, which every token attends to.
        """
        key, value = self.key_value(prefix)
        return AttentionCache(key[:, :, :0], value[:, :, :0], key, value, 0)

    def key_value(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return unrotated keys and values of ``[batch, length, hidden]``, ``[batch, heads, length, head_size]`` each."""
        return split_heads(self.k_proj(inputs), self.heads), split_heads(self.v_proj(inputs), self.heads)

    def rotate(self, heads: Tensor, position: int) -> Tensor:
        """Apply rotary positions (https://arxiv.org/abs/2104.09864).

        Args:
            heads: Queries or keys, ``[batch, heads, length, head_size]``.
            position: Of the first token.
        """
        half, dtype = self.head_size // 2, torch.promote_types(heads.dtype, torch.float32)
        exponents = torch.arange(half, device=heads.device, dtype=dtype) / half
        positions = torch.arange(position, position + heads.shape[2], device=heads.device, dtype=dtype)
        angles = positions[:, None] * self.rope_theta**-exponents
        cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
        first, second = heads[..., :half], heads[..., half:]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    def attend(
        self,
        query: Tensor,
        rotated_query: Tensor,
        key: Tensor,
        value: Tensor,
        cache: AttentionCache,
        mask: Tensor,
    ) -> Tensor:
        """Attend to the persistent tokens of ``cache`` and to other keys in one softmax.

        Args:
            query: ``[batch, heads, queries, head_size]``, for the persistent tokens.
            rotated_query: Like ``query``, with its rotary positions, for the other keys.
            key: ``[batch, heads, keys, head_size]``, rotated.
            value: Like ``key``, not rotated.
            cache: Of the persistent tokens.
            mask: Boolean ``[queries, keys]``, True where a query may attend to a key.

        Returns:
            ``[batch, heads, queries, head_size]``.
        """
        local_scores = (rotated_query @ key.mT).masked_fill(~mask, float("-inf"))
        scores = torch.cat((query @ cache.prefix_key.mT, local_scores), -1) * self.head_size**-0.5
        dtype = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=dtype).to(value.dtype)
        persistent = cache.prefix_key.shape[2]
        output: Tensor = weights[..., :persistent] @ cache.prefix_value + weights[..., persistent:] @ value
        return output


class SlidingWindowAttention(Attention):
    """Each token attends to the ``window`` last tokens, itself included, and to the persistent ones (fig. 3b)."""

    def forward(self, inputs: Tensor, cache: AttentionCache) -> tuple[Tensor, AttentionCache]:
        """Attend with one window's length of queries at a time, so that time and memory are linear in the length.

        Args:
            inputs: ``[batch, length, hidden]``.
            cache: From `begin` or from the previous call.

        Returns:
            ``[batch, length, hidden]``, and the cache after these tokens.
        """
        query = split_heads(self.q_proj(inputs), self.heads)
        key, value = self.key_value(inputs)
        rotated_query, key = self.rotate(query, cache.position), self.rotate(key, cache.position)
        cached = cache.key.shape[2]
        key, value = torch.cat((cache.key, key), 2), torch.cat((cache.value, value), 2)
        outputs = []
        for start in range(0, query.shape[2], self.window):
            stop = min(start + self.window, query.shape[2])
            first = max(cached + start - self.window + 1, 0)
            queries, keys = slice(start, stop), slice(first, cached + stop)
            query_positions = torch.arange(cached + start, cached + stop, device=key.device)
            distance = query_positions[:, None] - torch.arange(first, cached + stop, device=key.device)
            mask = (distance >= 0) & (distance < self.window)
            local = (query[:, :, queries], rotated_query[:, :, queries], key[:, :, keys], value[:, :, keys])
            outputs.append(self.attend(*local, cache, mask))
        output = torch.cat(outputs, 2) if outputs else query
        keep = max(key.shape[2] - (self.window - 1), 0)
        new_cache = AttentionCache(
            key[:, :, keep:],
            value[:, :, keep:],
            cache.prefix_key,
            cache.prefix_value,
            cache.position + query.shape[2],
        )
        return self.o_proj(merge_heads(output)), new_cache


class SegmentAttention(Attention):
    """A segment attends to persistent tokens, to the memory's output h, and to itself (eq. 23, fig. 3a).

    The paper's sequence is [persistent; h; segment], where h_i is the output for token i's query. Token i attends to h_j and
    x_j for j up to i only, because h_j depends on x_j. Both have position j within the segment.
    """

    def forward(
        self, inputs: Tensor, context: Tensor | None, cache: AttentionCache
    ) -> tuple[Tensor, AttentionCache]:
        """Attend within one segment, to which all tokens belong.

        Args:
            inputs: ``[batch, length, hidden]``.
            context: h, ``[batch, length, hidden]``; None without memory.
            cache: From `begin` at a segment's first token, or from the previous call.

        Returns:
            ``[batch, length, hidden]``, and the cache after these tokens.
        """
        query = split_heads(self.q_proj(inputs), self.heads)
        streams = 1 if context is None else 2
        position = cache.position
        new = [self.key_value(stream) for stream in (inputs, context) if stream is not None]
        # Keys of a token and of its h are neighbours, so that a cache is one tensor at any length.
        key = torch.stack([self.rotate(key, position) for key, _ in new], 3).flatten(2, 3)
        value = torch.stack([value for _, value in new], 3).flatten(2, 3)
        key, value = torch.cat((cache.key, key), 2), torch.cat((cache.value, value), 2)
        length = query.shape[2]
        query_positions = torch.arange(position, position + length, device=key.device)
        key_positions = torch.arange(position + length, device=key.device).repeat_interleave(streams)
        mask = key_positions <= query_positions[:, None]
        output = self.attend(query, self.rotate(query, position), key, value, cache, mask)
        new_cache = AttentionCache(key, value, cache.prefix_key, cache.prefix_value, position + length)
        return self.o_proj(merge_heads(output)), new_cache
