"""Does a newer statement make an older one untrue? A linear classifier over the multilingual encoder, for any language.

"I moved to Porto." supersedes "I live in Lisbon.", "My flat in Lisbon has a balcony." does not. The classifier looks at the newer
statement, which says that something changed, at how it differs from the older one, at what both share, and at the products of the
principal components of each. ``benchmarks/fit_supersession.py`` fits it (logistic regression with an L2 penalty) and writes
``supersession.safetensors``; ``docs/relevance.md`` has its error rates and the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from memagent.backends.protocol import Vectors
from memagent.backends.shared.linear import tensors
from memagent.backends.shared.multilingual import MultilingualEmbedder
from memagent.backends.shared.words import literals

WEIGHTS = Path(__file__).with_name("supersession.safetensors")
_PRODUCT_SCALE = 25.0
_COSINE_SCALE = 3.0
"""They bring the products and the cosine to the size of the differences. Of 10 to 30, and of 1 and 3, by cross-fitting."""
_NEARLY_SAME = 0.85
_NEARLY_SAME_SCALE = 20.0
"""What exceeds this cosine is a feature: what is said again changes nothing. Of 0.75 and 0.85, and of 10 to 40, about the same.
Without it, seven in ten statements said twice supersede themselves."""
_SAME_SUBJECT = 0.25
"""Lowest cosine of statements about one subject: 98 % of the successions have it. Of 0.2 to 0.42 by cross-fitting."""
THRESHOLD = 0.5
"""Nats. The lowest tenth at which, by cross-fitting, at most one in twelve is marked of the pairs written to resemble successions,
and at most one in a hundred of the similar statements of one memory. Seven in ten of the successions are marked."""


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
    return same_subject(newer, older) and change(newer, older) > THRESHOLD


def same_subject(newer: Vectors, older: Vectors) -> bool:
    """Return whether two statements are similar enough to be about one subject.

    Args:
        newer: vector of the multilingual encoder, ``[512]``.
        older: likewise.
    """
    return float(older @ newer) >= _SAME_SUBJECT


def change(newer: Vectors, older: Vectors, weights: Mapping[str, Vectors] | None = None) -> float:
    """Return how much two statements speak for a change of what the older one said, in nats.

    Args:
        newer: vector of the multilingual encoder, ``[512]``.
        older: likewise.
        weights: ``weight``, ``bias`` and ``components``; None: those of the file ``WEIGHTS``.
    """
    weights = tensors(WEIGHTS) if weights is None else weights
    return float(features(newer, older, weights["components"]) @ weights["weight"] + weights["bias"][0])


def features(newer: Vectors, older: Vectors, components: Vectors) -> Vectors:
    """Return what the classifier looks at: ``[..., 1538 + components * (components + 1)]``.

    The newer statement, difference, product, cosine and its excess, and of both statements the products of their principal components.

    Args:
        newer: vectors of the multilingual encoder, ``[..., 512]``.
        older: likewise.
        components: scaled principal components of such vectors, and last what to add to each, ``[components, 513]``.
    """
    product = newer * older
    cosine = product.sum(axis=-1, keepdims=True)
    nearly_same = _NEARLY_SAME_SCALE * np.maximum(cosine - _NEARLY_SAME, 0)
    rows, columns = np.triu_indices(len(components))
    squares = []
    for vector in (newer, older):
        projected = vector @ components[:, :-1].T + components[:, -1]
        squares.append(projected[..., rows] * projected[..., columns])
    similarity = [_PRODUCT_SCALE * product, _COSINE_SCALE * cosine, nearly_same]
    return np.concatenate([newer, newer - older, *similarity, *squares], axis=-1)
