"""Attention to the last tokens and to persistent ones: in a window that slides (mag, mal) or within segments (mac)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memagent.backends.neural.titans.config import TitansConfig
from memagent.backends.neural.titans.memory import join, split


@dataclass(frozen=True)
class AttentionCache:
    """Keys and values that later tokens may attend to, ``[batch, heads, tokens, head_size]`` each.

    Attributes:
        key, value: Of the tokens in the window, or of the segment so far; keys are rotated.
        prefix_key, prefix_value: Of the persistent tokens.
        position: Of the next token, in the sequence or in its segment.
    """

    key: Tensor
    value: Tensor
    prefix_key: Tensor
    prefix_value: Tensor
    position: int


class Attention(nn.Module):
    """Multi-head attention with rotary positions; persistent tokens have none.

    A persistent token's score is that of the unrotated query and key: it is the same wherever the query stands, at
    positions that training never saw too. (The paper prepends these tokens and does not say which positions they have.)
    """

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.heads, self.size, self.window = config.num_attention_heads, config.head_size, config.window
        self.rope_theta = config.rope_theta
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, hidden, bias=False)
        self.v_proj = nn.Linear(hidden, hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def begin(self, prefix: Tensor) -> AttentionCache:
        """The cache before the first token; ``prefix``, ``[batch, persistent, hidden]``, is seen by every token."""
        key, value = self.key_value(prefix)
        return AttentionCache(key[:, :, :0], value[:, :, :0], key, value, 0)

    def key_value(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Unrotated keys, and values, of ``[batch, length, hidden]``."""
        return split(self.k_proj(inputs), self.heads), split(self.v_proj(inputs), self.heads)

    def rotate(self, heads: Tensor, position: int) -> Tensor:
        """Rotary positions (https://arxiv.org/abs/2104.09864) from ``position`` on, for ``[batch, heads, length, size]``."""
        half, exact = self.size // 2, torch.promote_types(heads.dtype, torch.float32)
        steps = torch.arange(half, device=heads.device, dtype=exact) / half
        places = torch.arange(position, position + heads.shape[2], device=heads.device, dtype=exact)
        angles = places[:, None] * self.rope_theta**-steps
        cos, sin = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
        first, second = heads[..., :half], heads[..., half:]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    def attend(
        self, query: Tensor, rotated: Tensor, key: Tensor, value: Tensor, past: AttentionCache, seen: Tensor
    ) -> Tensor:
        """One softmax over persistent tokens and those that ``seen``, ``[queries, keys]``, allows."""
        near = (rotated @ key.mT).masked_fill(~seen, float("-inf"))
        scores = torch.cat((query @ past.prefix_key.mT, near), -1) * self.size**-0.5
        exact = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=exact).to(value.dtype)
        persistent = past.prefix_key.shape[2]
        mixed: Tensor = weights[..., :persistent] @ past.prefix_value + weights[..., persistent:] @ value
        return mixed


class SlidingWindowAttention(Attention):
    """Each token attends to the ``window`` last tokens, itself included, and to the persistent ones (fig. 3b)."""

    def forward(self, inputs: Tensor, past: AttentionCache) -> tuple[Tensor, AttentionCache]:
        """Attend, a window's length of queries at a time: time and memory are linear in the length.

        Args:
            inputs: ``[batch, length, hidden]``.
            past: From `begin` or from the call before.

        Returns:
            ``[batch, length, hidden]``, and the cache after these tokens.
        """
        query = split(self.q_proj(inputs), self.heads)
        key, value = self.key_value(inputs)
        rotated, key = self.rotate(query, past.position), self.rotate(key, past.position)
        before = past.key.shape[2]
        key, value = torch.cat((past.key, key), 2), torch.cat((past.value, value), 2)
        pieces = []
        for start in range(0, query.shape[2], self.window):
            stop = min(start + self.window, query.shape[2])
            first = max(before + start - self.window + 1, 0)
            queries, keys = slice(start, stop), slice(first, before + stop)
            age = torch.arange(before + start, before + stop, device=key.device)[:, None] - torch.arange(
                first, before + stop, device=key.device
            )
            seen = (age >= 0) & (age < self.window)
            near = (query[:, :, queries], rotated[:, :, queries], key[:, :, keys], value[:, :, keys])
            pieces.append(self.attend(*near, past, seen))
        mixed = torch.cat(pieces, 2) if pieces else query
        keep = max(key.shape[2] - (self.window - 1), 0)
        position = past.position + query.shape[2]
        after = AttentionCache(
            key[:, :, keep:], value[:, :, keep:], past.prefix_key, past.prefix_value, position
        )
        return self.o_proj(join(mixed)), after


class SegmentAttention(Attention):
    """A segment attends to persistent tokens, to what memory says, and to itself (eq. 23, fig. 3a).

    The paper's sequence is [persistent; h; segment], where h_i answers token i's query. Token i sees h_j and x_j
    for j up to i only, because h_j knows x_j; both have position j within the segment.
    """

    def forward(
        self, inputs: Tensor, context: Tensor | None, past: AttentionCache
    ) -> tuple[Tensor, AttentionCache]:
        """Attend; all tokens belong to one segment, and go on where ``past`` ends.

        Args:
            inputs: ``[batch, length, hidden]``.
            context: h, of the same shape; None without memory.
            past: From `begin` at a segment's first token, or from the call before.

        Returns:
            ``[batch, length, hidden]``, and the cache after these tokens.
        """
        query = split(self.q_proj(inputs), self.heads)
        streams = 1 if context is None else 2
        position = past.position
        new = [self.key_value(stream) for stream in (inputs, context) if stream is not None]
        # Keys of a token and of its h stand side by side: so that a cache is one tensor, whatever its length.
        key = torch.stack([self.rotate(key, position) for key, _ in new], 3).flatten(2, 3)
        value = torch.stack([value for _, value in new], 3).flatten(2, 3)
        key, value = torch.cat((past.key, key), 2), torch.cat((past.value, value), 2)
        length = query.shape[2]
        place = torch.arange(position, position + length, device=key.device)
        of_key = torch.arange(position + length, device=key.device).repeat_interleave(streams)
        mixed = self.attend(query, self.rotate(query, position), key, value, past, of_key <= place[:, None])
        after = AttentionCache(key, value, past.prefix_key, past.prefix_value, position + length)
        return self.o_proj(join(mixed)), after
