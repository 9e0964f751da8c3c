"""Does a newer statement make an older one untrue? A linear classifier over the multilingual encoder, for any language.

"I moved to Porto." supersedes "I live in Lisbon.", "My flat in Lisbon has a balcony." does not. The classifier looks at the newer
statement, which says that something changed, at how it differs from the older one, and at what both share.
``benchmarks/fit_supersession.py`` fits it (logistic regression with an L2 penalty) and writes ``supersession.safetensors``;
``docs/relevance.md`` has its error rates and the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memagent.backends.protocol import Vectors
from memagent.backends.shared.linear import classifier
from memagent.backends.shared.multilingual import MultilingualEmbedder
from memagent.backends.shared.words import literals

WEIGHTS = Path(__file__).with_name("supersession.safetensors")
_PRODUCT_SCALE = 10.0
"""Brings the products to the size of the differences. Of 5, 10, 20 and 40 by cross-fitting; 5 to 20 are about the same."""
_SAME_SUBJECT = 0.42
"""Lowest cosine of statements about one subject: of statements about different subjects 99 % have less than 0.35."""
THRESHOLD = 0.5
"""Nats. Chosen by cross-fitting: three in five of the pairs that supersede are marked, and one in seventeen of the others."""


def successions(statements: Sequence[str], message: str = "") -> list[tuple[int, int]]:
    """Return the pairs of statements of which the newer one makes the older one untrue.

    Args:
        statements: oldest first.
        message: what they were recalled for.

    Returns:
        The places of the newer and of the older one, in order of the newer ones.
    """
    vectors = MultilingualEmbedder().embed_queries(statements)
    return [
        (newer, older)
        for newer in range(len(statements))
        for older in range(newer)
        if supersedes(vectors[newer], vectors[older])
        and holds_codes_of(statements[newer], statements[older], message)
    ]


def superseded_by(statements: Sequence[str], message: str = "") -> list[int | None]:
    """Return for each statement the place of the one that supersedes it, or None.

    Args:
        statements: of one speaker, oldest first.
        message: what they were recalled for.

    Returns:
        The place of the first later statement that makes it untrue: until then it held.
    """
    first: dict[int, int] = {}
    for newer, older in successions(statements, message):
        first.setdefault(older, newer)
    return [first.get(place) for place in range(len(statements))]


def holds_codes_of(newer: str, older: str, message: str) -> bool:
    """Return whether a newer statement holds the codes of letters and digits that a message and an older one share.

    "Error E4021 means that the valve is stuck." does not supersede what was said of E4012 where E4012 is asked for. Mere numbers
    are no such codes: they are mostly what changes.
    """
    shared_codes = {code for code in literals(message) if not code.isdecimal()}.intersection(literals(older))
    return shared_codes.issubset(literals(newer))


def supersedes(newer: Vectors, older: Vectors) -> bool:
    """Return whether a newer statement makes an older one untrue.

    Args:
        newer: vector of the multilingual encoder, ``[512]``.
        older: likewise.
    """
    return float(older @ newer) >= _SAME_SUBJECT and change(newer, older) > THRESHOLD


def change(newer: Vectors, older: Vectors) -> float:
    """Return how much two statements speak for a change of what the older one said, in nats.

    Args:
        newer: vector of the multilingual encoder, ``[512]``.
        older: likewise.
    """
    weights, bias = classifier(WEIGHTS)
    return float(features(newer, older) @ weights + bias)


def features(newer: Vectors, older: Vectors) -> Vectors:
    """Return what the classifier looks at: the newer one, difference, product and cosine, ``[..., 1537]``.

    Args:
        newer: vectors of the multilingual encoder, ``[..., 512]``.
        older: likewise.
    """
    product = newer * older
    cosine = product.sum(axis=-1, keepdims=True)
    return np.concatenate([newer, newer - older, _PRODUCT_SCALE * product, cosine], axis=-1)
