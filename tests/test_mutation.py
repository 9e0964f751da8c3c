"""The mutator: the same bytes for the same number, all kinds of damage, never much longer."""

from __future__ import annotations

import random
import re

import pytest

from tests.mutation import _STEPS, JSON_TOKENS, Mutator

ORIGINALS = [
    b'{"seq": 1, "text": "My dog is called Biscuit."}\n{"seq": 2, "text": "I moved to Porto."}\n',
    b"name: a\nsteps:\n- ask: q\n",
]
NUMBERS = range(500)


def mutations(seed: int = 7) -> list[bytes]:
    mutator = Mutator(ORIGINALS, seed, JSON_TOKENS)
    return [mutator.mutation(number) for number in NUMBERS]


def test_a_mutation_is_named_by_seed_and_number() -> None:
    backwards = Mutator(list(ORIGINALS), 7, list(JSON_TOKENS))
    assert [backwards.mutation(number) for number in reversed(NUMBERS)] == mutations()[::-1]
    assert mutations(8) != mutations()


def test_mutations_differ_from_their_originals_and_from_each_other() -> None:
    made = mutations()
    assert sum(data in ORIGINALS for data in made) < 0.1 * len(made)
    assert len(set(made)) > 0.9 * len(made)


def test_mutations_are_of_all_kinds() -> None:
    made = mutations()
    for kind in (
        rb"\d{400}",
        rb"\\ud800",
        rb"\0",
        rb"Biscuit.*Biscuit",
        rb"^\xff\xfe",
        rb"\r\n",
        rb"NaN",
        rb"[\x80-\xff]",
    ):
        assert any(re.search(kind, data, re.DOTALL) for data in made), kind
    assert any(len(data) < 20 for data in made)


def test_no_mutation_is_much_longer_than_the_originals() -> None:
    assert max(map(len, mutations())) < 200_000


@pytest.mark.parametrize("step", _STEPS)
@pytest.mark.parametrize("original", [b"", b"\n", b"\xff", b"x"])
def test_the_smallest_inputs_can_be_mutated(step: object, original: bytes) -> None:
    mutator = Mutator([original], 1)
    for number in range(20):
        assert isinstance(step(mutator, random.Random(number), original), bytes)  # type: ignore[operator]
