"""Two texts, and memories of them to inject."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from memagent.backends.shared.attention.chunks import TokenSpan
from memagent.backends.shared.attention.encoder import AttentionEncoder
from memagent.backends.shared.attention.hooks import attention_hook
from memagent.backends.shared.attention.injection import InjectedKeysAndValues, Placement
from tests.backends.rope_map.tiny import Tiny, logits, tokens

FIRST, SECOND = tokens(37, seed=1), tokens(11, seed=2)


def memory_of(
    local: Tiny, *spans: TokenSpan, placement: Placement = "consecutive", offset: int = 4096, **options: Any
) -> InjectedKeysAndValues:
    """Encode spans with a model, for injection into the same model."""
    encoder = AttentionEncoder(local)
    return InjectedKeysAndValues(
        list(encoder.encode(spans)),
        encoder.theta,
        local.model.device,
        local.model.dtype,
        placement=placement,
        offset=offset,
        **options,
    )


def logits_with(local: Tiny, memory: InjectedKeysAndValues, ids: list[int], **options: Any) -> Tensor:
    """Return ``[tokens, vocabulary]`` of a text whose tokens attend to a memory."""
    with attention_hook(local.model, memory):
        return logits(local.model, ids, **options)
