"""Reading text with the model and keeping what its attention layers compute: keys, values, queries.

All are stored unrotated, which is to say as they would stand at position 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from memagent.backends.protocol import LocalModel
from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.hooks import AttentionCall, layers, watched


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens to read, and the tokens that stand before them: read too, not kept."""

    before: Sequence[int]
    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class KeysAndValues:
    """What attention made of a row's own tokens: each ``[tokens, layers, kv_heads, head_dim]``, unrotated."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Asked:
    """What attention asks with a row's own tokens.

    Attributes:
        queries: of some layers, unrotated: ``[layers, heads, tokens, head_dim]``.
        values: of the first layers: ``[tokens, layers, kv_heads, head_dim]``.
    """

    queries: Tensor
    values: Tensor


class Reader:
    """Reads rows with one model.

    Raises:
        SettingError: the model's attention is not of a kind the map understands.
    """

    def __init__(self, local: LocalModel) -> None:
        rotary.check(local.model)
        self.model = local.model
        self.theta = rotary.frequencies(local.model)
        self.depth = len(layers(local.model))
        config = local.model.config
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    def read(self, rows: Sequence[Row], *, depth: int | None = None) -> Iterator[KeysAndValues]:
        """Yield keys and values of each row, in order, up to layer ``depth`` (exclusive; all by default).

        Rows are read one by one: in a batch a row's numbers would depend on the others of the batch, by rounding, and
        the same journal would not give the same map.
        """
        for row in rows:
            capture = _Capture(self.theta, depth or self.depth, queried=None)
            self._run(row, capture)
            yield KeysAndValues(_own(row, capture.keys), _own(row, capture.values))

    def ask(self, rows: Sequence[Row], queried: Collection[int], depth: int) -> Iterator[Asked]:
        """Yield each row's queries in the layers ``queried``, ascending, and its values in the first ``depth`` layers.

        Layers from ``depth`` on, above all that are queried, are not run.
        """
        for row in rows:
            capture = _Capture(self.theta, depth, queried)
            self._run(row, capture)
            yield Asked(_own(row, capture.queries).permute(1, 2, 0, 3), _own(row, capture.values))

    def _run(self, row: Row, capture: _Capture) -> None:
        ids = torch.tensor([[*row.before, *row.ids]], device=self.model.device)
        with torch.inference_mode(), watched(self.model, capture), suppress(_Enough):
            self.model.model(input_ids=ids, use_cache=False)


class _Enough(Exception):  # noqa: N818 - nothing went wrong
    """The last layer that anyone wanted to see has been seen."""


def _own(row: Row, layers: Sequence[Tensor]) -> Tensor:
    """Take a row's own tokens from each layer's ``[1, heads, tokens, head_dim]``: ``[tokens, layers, heads, head_dim]``."""
    own = slice(len(row.before), len(row.before) + len(row.ids))
    return torch.stack([tensor[0, :, own] for tensor in layers]).permute(2, 0, 1, 3).contiguous()


class _Capture:
    """Keeps the values of the first ``depth`` layers, and the queries of those ``queried``; if None, all their keys."""

    def __init__(self, theta: Tensor, depth: int, queried: Collection[int] | None) -> None:
        self._theta = theta
        self._depth = depth
        self._queried = queried
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.queries: list[Tensor] = []

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> None:
        back = -call.positions[:, None]
        self.values.append(value.cpu())
        if self._queried is None:
            self.keys.append(rotary.rotate(key, back, self._theta).to(key.dtype).cpu())
        elif layer in self._queried:
            self.queries.append(rotary.rotate(query, back, self._theta).cpu())
        if layer == self._depth - 1:
            raise _Enough
