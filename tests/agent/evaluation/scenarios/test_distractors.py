"""Distractors: distinct, seeded, as many as a scenario may ask for."""

from __future__ import annotations

import pytest

from memagent.agent.evaluation.scenarios.distractors import Kind, generate

KINDS: tuple[Kind, ...] = ("others", "daily", "mixed")


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_100_000_different_sentences_of_each_kind(kind: Kind) -> None:
    made = generate(100_000, kind=kind)
    assert len(set(made)) == len(made) == 100_000


@pytest.mark.parametrize("kind", KINDS)
def test_more_sentences_begin_with_the_fewer(kind: Kind) -> None:
    assert generate(500, 3, kind)[:20] == generate(20, 3, kind)


def test_a_seed_always_gives_the_same_and_another_gives_others() -> None:
    assert generate(50, 1) == generate(50, 1)
    assert len(set(generate(50, 1)) & set(generate(50, 2))) < 5


def test_mixed_has_some_of_either_kind() -> None:
    others, daily = set(generate(100_000, 0, "others")), set(generate(100_000, 0, "daily"))
    assert not others & daily
    mixed = set(generate(1000, 0, "mixed"))
    assert mixed & others
    assert mixed & daily


def test_sentences_are_filled_in_and_complete() -> None:
    for sentence in generate(2000):
        assert not set("{}<>\n") & set(sentence)
        assert "  " not in sentence
        assert sentence[0].isupper()
        assert sentence[-1] in ".!?"


def test_more_than_can_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="at most [0-9,]+ distractors of the kind 'others' can be made"):
        generate(10_000_000, kind="others")
