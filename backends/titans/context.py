"""Memory as context: what was recited stands before the prompt, in the attention of every layer of a local model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log

from memagent.backends.protocol import LocalModel
from memagent.backends.shared.attention.chunks import Chunk, TurnTokenizer
from memagent.backends.shared.attention.encoder import AttentionEncoder
from memagent.backends.shared.attention.injection import InjectedKeysAndValues
from memagent.backends.titans.chunks import Span

# Chosen among ten: a small model answers from what it reads under this line, and under some others as if it knew nothing.
_OPENING = "Remember what the user said about themselves:\n"
# Differences between matches are widened, and the least matched span keeps a fifth of the best one's weight. Not varied.
_SHARPNESS = 4.0
_MIN_LOG_WEIGHT = log(0.2)


def in_context(local: LocalModel, recited: Sequence[tuple[Span, float]]) -> InjectedKeysAndValues:
    """Read recited spans with a model, so that it can attend to them as if they stood right before its prompt.

    Args:
        recited: spans with their matches; older ones stand further away, and better matched ones weigh more.

    Raises:
        SettingError: the model is of no supported family.
    """
    encoder, tokenizer = AttentionEncoder(local), TurnTokenizer(local.tokenizer, _OPENING)
    best = max(match for _, match in recited)
    chunks: list[Chunk] = []
    log_weights: list[float] = []
    for span, match in sorted(recited, key=lambda item: item[0].turn.seq):
        parts = tokenizer.split(replace(span.turn, text=span.text))
        chunks += parts
        log_weights += [max(_MIN_LOG_WEIGHT, _SHARPNESS * log(match / best))] * len(parts)
    # Each chunk is read after those before it, so that the model can tell similar ones apart.
    spans = [tokenizer.chunk_span(chunk, chunks[:place]) for place, chunk in enumerate(chunks)]
    return InjectedKeysAndValues(
        list(encoder.encode(spans)),
        encoder.theta,
        local.model.device,
        local.model.dtype,
        placement="consecutive",
        offset=0,
        log_weights=log_weights,
    )
