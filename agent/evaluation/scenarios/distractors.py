"""Facts that are beside the point: seeded, distinct, more than 100,000 of each kind.

A sentence is a template of ``distractors.yaml`` filled from its lists. A seed walks the fillings of
each template in an order of its own, so that no sentence comes twice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from itertools import islice
from math import gcd, prod
from pathlib import Path
from typing import Literal

import yaml

Kind = Literal["others", "daily", "mixed"]
Template = tuple[str, dict[str, list[str]]]


def generate(count: int, seed: int = 0, kind: Kind = "mixed") -> list[str]:
    """Return distinct sentences. The same seed gives the same ones; a higher count only adds at the end.

    Args:
        count: how many.
        seed: which.
        kind: ``others`` (facts about other people and places), ``daily`` (the user's own days) or ``mixed``.

    Raises:
        ValueError: the templates have fewer.
    """
    templates = [
        template for name, listed in _vocabulary().items() if kind in (name, "mixed") for template in listed
    ]
    sentences = list(islice(_round_robin(templates, random.Random(f"{kind} {seed}")), count))  # noqa: S311
    if len(sentences) < count:
        raise ValueError(f"at most {len(sentences):,} distractors of the kind {kind!r} can be made")
    return sentences


def _round_robin(templates: list[Template], rng: random.Random) -> Iterator[str]:
    """Yield a sentence of each template in turn, until all are used up."""
    walks = [_walk(template, rng) for template in templates]
    while walks:
        for walk in list(walks):
            sentence = next(walk, None)
            if sentence is None:
                walks.remove(walk)
            else:
                yield sentence


def _walk(template: Template, rng: random.Random) -> Iterator[str]:
    """Yield every filling of a template once, in random order, without holding them all.

    The i-th is filling ``(start + i * step) mod size``: a permutation, as step and size are coprime.
    """
    text, slots = template
    size = prod(len(values) for values in slots.values())
    start, step = rng.randrange(size), _coprime(size, rng)
    for i in range(size):
        place = (start + i * step) % size
        filling = {}
        for slot, values in slots.items():
            place, number = divmod(place, len(values))
            filling[slot] = values[number]
        yield text.format(**filling)


def _coprime(size: int, rng: random.Random) -> int:
    """Draw a number from 1 to ``size`` that has no common divisor with it."""
    while True:
        step = rng.randrange(1, size + 1)
        if gcd(step, size) == 1:
            return step


@cache
def _vocabulary() -> dict[str, list[Template]]:
    """Read the templates of ``distractors.yaml``, by kind."""
    text = Path(__file__).with_name("distractors.yaml").read_text(encoding="utf-8")
    kinds = yaml.safe_load(text)["kinds"]
    return {
        kind: [
            (template["template"], {slot: _values(listed) for slot, listed in template["slots"].items()})
            for template in templates
        ]
        for kind, templates in kinds.items()
    }


def _values(listed: str) -> list[str]:
    """Return the values of a slot, written as ``1..9`` or with commas between them."""
    first, dots, last = listed.partition("..")
    if dots:
        return [str(number) for number in range(int(first), int(last) + 1)]
    return [value.strip() for value in listed.split(",")]
