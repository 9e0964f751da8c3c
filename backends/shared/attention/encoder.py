"""Running text through the model and keeping what its attention layers compute: keys, values, queries.

All are kept unrotated, that is, as they would be at position 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from memagent.backends.protocol import LocalModel
from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.chunks import TokenSpan
from memagent.backends.shared.attention.families import supported_family
from memagent.backends.shared.attention.hooks import AttentionCall, attention_hook


@dataclass(frozen=True, slots=True)
class KeysAndValues:
    """Keys and values of a token span: each ``[tokens, layers, kv_heads, head_dim]``, the keys unrotated."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class EncodedQueries:
    """Queries and values of a token span.

    Attributes:
        queries: of some layers, unrotated: ``[layers, heads, tokens, head_dim]``.
        values: of the first layers: ``[tokens, layers, kv_heads, head_dim]``.
    """

    queries: Tensor
    values: Tensor


class AttentionEncoder:
    """Encodes token spans as keys, values and queries of one model.

    Attributes:
        model: the causal language model.
        decoder: its layers without the output head.
        theta: its rotary frequencies, ``[head_dim / 2]``, radians per token.
        num_layers, num_heads, num_kv_heads, head_dim: its sizes.

    Raises:
        SettingError: the model is of no supported family.
    """

    def __init__(self, local: LocalModel) -> None:
        family = supported_family(local.model)
        self.model = local.model
        self.decoder = family.decoder_of(local.model)
        self.theta = family.frequencies_of(local.model)
        config = local.model.config
        self.num_layers: int = config.num_hidden_layers
        self.num_heads: int = config.num_attention_heads
        self.num_kv_heads: int = config.num_key_value_heads
        self.head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // self.num_heads

    @property
    def group_size(self) -> int:
        """How many query heads share one key/value head."""
        return self.num_heads // self.num_kv_heads

    def encode(self, spans: Sequence[TokenSpan], *, num_layers: int | None = None) -> Iterator[KeysAndValues]:
        """Yield the keys and values of each span, in order.

        Spans are read one by one. In a batch, rounding would make a span's numbers depend on the others of the batch, and
        the same journal would not give the same memory.

        Args:
            spans: each of at least one token.
            num_layers: how many layers to run, from the first one; None: all.
        """
        for span in spans:
            capture = _Capture(self.theta, num_layers or self.num_layers, query_layers=None)
            self._run(span, capture)
            yield KeysAndValues(_of_span(span, capture.keys), _of_span(span, capture.values))

    def encode_queries(
        self, spans: Sequence[TokenSpan], query_layers: Collection[int], num_layers: int
    ) -> Iterator[EncodedQueries]:
        """Yield the queries and values of each span, in order.

        Args:
            spans: each of at least one token.
            query_layers: layers, from 0, whose queries are wanted; they come in ascending order.
            num_layers: how many layers to run, from the first one. The values of all of them are given.
        """
        for span in spans:
            capture = _Capture(self.theta, num_layers, query_layers)
            self._run(span, capture)
            yield EncodedQueries(
                _of_span(span, capture.queries).permute(1, 2, 0, 3), _of_span(span, capture.values)
            )

    def _run(self, span: TokenSpan, capture: _Capture) -> None:
        ids = torch.tensor([[*span.prefix_ids, *span.ids]], device=self.model.device)
        with torch.inference_mode(), attention_hook(self.model, capture), suppress(_StopForward):
            self.decoder(input_ids=ids, use_cache=False)


class _StopForward(Exception):  # noqa: N818 - not an error
    """Raised in the last layer whose keys, values or queries are wanted, to end the forward pass."""


def _of_span(span: TokenSpan, layers: Sequence[Tensor]) -> Tensor:
    """Take a span's own tokens from each layer's ``[1, heads, tokens, head_dim]``: ``[tokens, layers, heads, head_dim]``."""
    own = slice(len(span.prefix_ids), len(span.prefix_ids) + len(span.ids))
    return torch.stack([tensor[0, :, own] for tensor in layers]).permute(2, 0, 1, 3).contiguous()


class _Capture:
    """Attention hook that keeps values of the first ``num_layers`` layers, and queries of ``query_layers``.

    Without ``query_layers`` it keeps the keys of all these layers instead.
    """

    def __init__(self, theta: Tensor, num_layers: int, query_layers: Collection[int] | None) -> None:
        self._theta = theta
        self._num_layers = num_layers
        self._query_layers = query_layers
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.queries: list[Tensor] = []

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> None:
        to_origin = -call.positions[:, None]
        self.values.append(value.cpu())
        if self._query_layers is None:
            self.keys.append(rotary.rotate(key, to_origin, self._theta).to(key.dtype).cpu())
        elif layer in self._query_layers:
            self.queries.append(rotary.rotate(query, to_origin, self._theta).cpu())
        if layer == self._num_layers - 1:
            raise _StopForward
