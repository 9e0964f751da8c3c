"""Two texts, and memories of them to attend to."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from memagent.backends.shared.attention.encoder import Reader, Row
from memagent.backends.shared.attention.hooks import watched
from memagent.backends.shared.attention.injection import Attended, Placement
from tests.backends.rope_map.tiny import Tiny, logits, tokens

FIRST, SECOND = tokens(37, seed=1), tokens(11, seed=2)


def memory_of(
    local: Tiny, *rows: Row, placement: Placement = "consecutive", offset: int = 4096, **options: Any
) -> Attended:
    reader = Reader(local)
    return Attended(
        list(reader.read(rows)),
        reader.theta,
        local.model.device,
        local.model.dtype,
        placement=placement,
        offset=offset,
        **options,
    )


def attached(local: Tiny, memory: Attended, ids: list[int], **options: Any) -> Tensor:
    with watched(local.model, memory):
        return logits(local.model, ids, **options)
