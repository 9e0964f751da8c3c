"""Rereading a question after each piece that may answer it: what answers it makes it likelier.

Addressing compares tokens; the whole model knows more of what belongs together. So the best pieces are tried one by one:
their keys and values are attended as if each had been said right before the question (``attention/likelihood.py``). By how
much a piece lifts the question is

    lift(piece) = log P(question | piece) - log P(question)

and the piece gains ``WEIGHT * max(0, REACH + lift - max lift)``. A question that none lifts by ``LEAST`` is about
nothing that is remembered. The constants were chosen on the development data of LoCoMo and on the twelve facts of the tests.
"""

from __future__ import annotations

from collections.abc import Mapping

from memagent.backends.shared.attention.encoder import KeysAndValues, Reader, Row
from memagent.backends.shared.attention.likelihood import likelihoods

WEIGHT = 0.5
"""The question has had its say in the score already: what it says once more counts for half."""

REACH = 12.0
"""In nats: a piece after which the question is so much less likely than after the best one gains nothing."""

LEAST = 3.0
"""In nats: some piece has to make the question at least twenty times as likely, or nothing is relevant."""

CREDIT = 0.1
"""How much each nat above that adds to what addressing has found, where it is asked whether anything is relevant at all."""


def lifts(
    reader: Reader, opening: KeysAndValues, pieces: Mapping[int, KeysAndValues], row: Row
) -> dict[int, float]:
    """Return by how much each piece makes the question likelier, by its number, in nats; below 0: less likely.

    Args:
        opening: what everything is read after.
        row: what stands between a piece and the question, and the question.
    """
    nothing = KeysAndValues(opening.keys[:0], opening.values[:0])
    likely = likelihoods(reader, opening, [nothing, *pieces.values()], row)
    return dict(zip(pieces, (likely[1:] - likely[0]).tolist(), strict=True))


def gains(lifted: Mapping[int, float]) -> dict[int, float]:
    """Return what each piece gains, 0 or more, from all their lifts."""
    best = max(lifted.values(), default=0.0)
    return {number: WEIGHT * max(0.0, REACH + lift - best) for number, lift in lifted.items()}
