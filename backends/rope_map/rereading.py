"""Rereading a question after each piece that may answer it: what answers it makes it likelier.

Addressing compares tokens; the whole model knows more of what belongs together. So the best pieces are tried one by one:
their keys and values are attended as if each had been said right before the question (``attention/likelihood.py``),
and a piece gains

    WEIGHT * max(0, REACH + log P(question | piece) - max over pieces of log P(question | piece))

Both constants were chosen on the development data of LoCoMo and on the twelve facts of the tests.
"""

from __future__ import annotations

from collections.abc import Mapping

from memagent.backends.attention.likelihood import likelihoods
from memagent.backends.attention.reader import KeysAndValues, Reader, Row

WEIGHT = 0.5
"""The question has had its say in the score already: what it says once more counts for half."""

REACH = 12.0
"""In nats: a piece after which the question is so much less likely than after the best one gains nothing."""


def gains(
    reader: Reader, opening: KeysAndValues, pieces: Mapping[int, KeysAndValues], row: Row
) -> dict[int, float]:
    """Return what each piece gains by its number, 0 or more.

    Args:
        opening: what everything is read after.
        row: what stands between a piece and the question, and the question.
    """
    likely = likelihoods(reader, opening, list(pieces.values()), row)
    gained = WEIGHT * (REACH + likely - likely.max()).clamp_min(0.0)
    return dict(zip(pieces, gained.tolist(), strict=True))
