"""Does a newer statement make an older one untrue? A linear classifier over the multilingual encoder, for any language.

"I moved to Porto." supersedes "I live in Lisbon.", "My flat in Lisbon has a balcony." does not. What speaks for it is mostly in
the newer statement: it tells of a change. ``benchmarks/fit_supersession.py`` fits the classifier (logistic regression with an
L2 penalty) and writes ``supersession.safetensors``; ``docs/relevance.md`` has its error rates and the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memagent.backends.protocol import Vectors
from memagent.backends.shared.linear import classifier
from memagent.backends.shared.multilingual import MultilingualEmbedder

WEIGHTS = Path(__file__).with_name("supersession.safetensors")
_SAME_SUBJECT = 0.4
"""Lowest cosine of statements about one subject. In the fitting half of the data, pairs that supersede have at least 0.43; of
statements about different subjects 99 % have less than 0.35."""
THRESHOLD = 0.25
"""Nats. Chosen by cross-fitting on both halves of the data: three in four of the pairs that supersede are marked, and hardly
any other. At 0, nine in ten are, and one in seven of the others."""


def superseded_by(statements: Sequence[str]) -> list[int | None]:
    """Return for each statement the place of the one that supersedes it, or None.

    Args:
        statements: of one speaker, oldest first.

    Returns:
        The place of the latest later statement that makes it untrue.
    """
    vectors = MultilingualEmbedder().embed_queries(statements)
    return [
        max(
            (later for later in range(place + 1, len(vectors)) if supersedes(vectors[later], vectors[place])),
            default=None,
        )
        for place in range(len(statements))
    ]


def supersedes(newer: Vectors, older: Vectors) -> bool:
    """Return whether a newer statement makes an older one untrue.

    Args:
        newer: vector of the multilingual encoder, ``[512]``.
        older: likewise.
    """
    cosine = float(older @ newer)
    return cosine >= _SAME_SUBJECT and change(newer, cosine) > THRESHOLD


def change(newer: Vectors, cosine: float) -> float:
    """Return how much a statement speaks for a change of what an older one said, in nats.

    Args:
        newer: vector of the multilingual encoder, ``[512]``.
        cosine: of both statements.
    """
    weights, bias = classifier(WEIGHTS)
    return float(newer @ weights[:-1] + cosine * weights[-1] + bias)
