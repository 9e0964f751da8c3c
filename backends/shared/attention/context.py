"""Memory as context: regenerated texts as keys and values before the prompt, in the attention of every layer of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import log

from memagent.backends.protocol import Injection, LocalModel
from memagent.backends.records import Turn
from memagent.backends.shared.attention.chunks import Chunk, TurnTokenizer
from memagent.backends.shared.attention.encoder import AttentionEncoder
from memagent.backends.shared.attention.hooks import attention_hook
from memagent.backends.shared.attention.injection import InjectedKeysAndValues

# The best of ten lines on twelve facts: under some of the others a small model answers as if it knew nothing.
_OPENING = "Remember what the user said about themselves:\n"
# Differences between scores are widened, and the weakest text keeps a fifth of the best one's weight. Not varied.
_SHARPNESS = 4.0
_MIN_LOG_WEIGHT = log(0.2)
_MIN_SCORE = 1e-3

Texts = Sequence[tuple[Turn, str, float]]
"""Texts for the attention, each with the turn it is from, of which seq, role and speaker count, and with its score, 0 to 1."""


@contextmanager
def texts_in_attention(local: LocalModel, texts: Texts, injection: Injection) -> Iterator[Injection]:
    """Let a model attend to texts before its prompt; without texts it is left as it is.

    Args:
        local: The model.
        texts: As in ``encode_texts``; may be empty.
        injection: What is yielded, if there are texts.

    Raises:
        SettingError: the model is of no supported family.
    """
    if not texts:
        yield Injection()
        return
    with attention_hook(local.model, encode_texts(local, texts)):
        yield injection


def encode_texts(local: LocalModel, texts: Texts) -> InjectedKeysAndValues:
    """Encode texts with a model, so that it attends to them as if they stood before its prompt.

    Texts stand in the order of their turns, and each is read after those before it, so that the model can tell similar
    texts apart.

    Args:
        local: The model that is to attend to them.
        texts: At least one text. A lower score weakens it in the attention.

    Raises:
        SettingError: the model is of no supported family.
    """
    encoder, tokenizer = AttentionEncoder(local), TurnTokenizer(local.tokenizer, _OPENING)
    best = max(_MIN_SCORE, *(score for _, _, score in texts))
    token_chunks: list[Chunk] = []
    log_weights: list[float] = []
    for turn, text, score in sorted(texts, key=lambda scored: scored[0].seq):
        parts = tokenizer.split(replace(turn, text=text))
        token_chunks += parts
        log_weights += [max(_MIN_LOG_WEIGHT, _SHARPNESS * log(max(score, _MIN_SCORE) / best))] * len(parts)
    spans = [tokenizer.chunk_span(chunk, token_chunks[:place]) for place, chunk in enumerate(token_chunks)]
    return InjectedKeysAndValues(
        list(encoder.encode(spans)),
        encoder.theta,
        local.model.device,
        local.model.dtype,
        placement="consecutive",
        offset=0,
        log_weights=log_weights,
    )
