"""Recall, reciprocal rank, token F1 and the bootstrap, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from memagent.agent.evaluation.metrics import (
    KS,
    bootstrap_difference,
    chance_recall_at,
    distinct,
    recall_at,
    reciprocal_rank,
    token_f1,
)


@pytest.mark.parametrize(
    ("k", "expected"), [(1, 0.0), (2, 0.25), (3, 0.25), (4, 0.5), (5, 0.75), (6, 0.75), (100, 0.75)]
)
def test_recall_is_the_share_of_the_evidence_found(k: int, expected: float) -> None:
    assert recall_at([9, 1, 8, 2, 3, 7], frozenset({1, 2, 3, 4}), k) == expected


def test_recall_of_nothing_is_0() -> None:
    assert recall_at([], frozenset({1}), 10) == 0.0


@pytest.mark.parametrize(
    ("ranked", "expected"), [([1, 9], 1.0), ([9, 1, 2], 0.5), ([9, 8, 7, 2], 0.25), ([9], 0.0), ([], 0.0)]
)
def test_the_first_piece_of_evidence_makes_the_reciprocal_rank(ranked: list[int], expected: float) -> None:
    assert reciprocal_rank(ranked, frozenset({1, 2})) == expected


def test_a_ranking_folds_onto_first_places() -> None:
    assert distinct(["b", "a", "b", "c", "a"]) == ["b", "a", "c"]


def test_chance_is_k_of_n_and_never_above_1() -> None:
    assert [chance_recall_at(40, k) for k in KS] == [1 / 40, 5 / 40, 10 / 40, 20 / 40]
    assert chance_recall_at(7, 10) == 1.0


def test_chance_is_the_mean_over_random_orders() -> None:
    generator = np.random.default_rng(1)
    evidence = frozenset({3, 4, 11})
    found = [recall_at(list(generator.permutation(30)), evidence, 10) for _ in range(3000)]
    assert np.mean(found) == pytest.approx(chance_recall_at(30, 10), abs=0.02)


# token F1


@pytest.mark.parametrize(
    ("reply", "answer", "expected"),
    [
        ("Biscuit", "Biscuit", 1.0),
        ("The biscuit!", "biscuit", 1.0),
        ("a dog called Biscuit", "Biscuit", 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("red bicycle", "blue bicycle", 0.5),
        ("dog dog dog", "dog", 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("7 May 2023", "7 May, 2023.", 1.0),
        ("cat", "dog", 0.0),
        ("", "dog", 0.0),
        ("dog", "", 0.0),
        ("STRASSE", "Straße", 1.0),
    ],
)
def test_token_f1(reply: str, answer: str, expected: float) -> None:
    assert token_f1(reply, [answer]) == pytest.approx(expected)


def test_the_best_of_several_answers_counts() -> None:
    assert token_f1("Rex", ["Biscuit", "Rex", "Rex or Biscuit"]) == 1.0
    assert token_f1("Rex", []) == 0.0


def test_punctuation_within_a_word_goes_as_in_squad() -> None:
    assert token_f1("US", ["U.S."]) == 1.0


# the bootstrap


def test_no_difference_has_an_interval_of_nothing() -> None:
    assert bootstrap_difference([0.5, 0.2, 1.0], [0.5, 0.2, 1.0]) == (0.0, 0.0, 0.0)


def test_an_even_difference_has_an_interval_of_nothing() -> None:
    assert bootstrap_difference([1.0] * 9, [0.0] * 9) == (1.0, 1.0, 1.0)
    assert bootstrap_difference([0.25], [0.75]) == (-0.5, -0.5, -0.5)


def test_the_interval_holds_the_mean_and_turns_with_the_sides() -> None:
    generator = np.random.default_rng(3)
    ours, theirs = generator.random(60).tolist(), generator.random(60).tolist()
    mean, low, high = bootstrap_difference(ours, theirs)
    assert mean == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert low < mean < high
    assert bootstrap_difference(theirs, ours) == pytest.approx((-mean, -high, -low))


def test_a_seed_decides_the_interval() -> None:
    values = np.random.default_rng(4).random(50).tolist()
    zeros = [0.0] * 50
    assert bootstrap_difference(values, zeros) == bootstrap_difference(values, zeros, seed=0)
    assert bootstrap_difference(values, zeros, seed=1) != bootstrap_difference(values, zeros, seed=2)


def test_questions_are_paired() -> None:
    """What is hard for both does not widen the interval."""
    theirs = np.random.default_rng(5).random(80)
    _, low, high = bootstrap_difference((theirs + 0.1).tolist(), theirs.tolist())
    assert (low, high) == pytest.approx((0.1, 0.1))


def test_it_does_what_a_loop_does() -> None:
    generator = np.random.default_rng(6)
    ours, theirs = generator.random(12), generator.random(12)
    again = np.random.default_rng(7)
    means = []
    for _ in range(10_000):
        drawn = [int(place) for place in again.integers(0, 12, size=12)]
        means.append(sum(ours[place] - theirs[place] for place in drawn) / 12)
    expected = (np.mean(ours - theirs), np.quantile(means, 0.025), np.quantile(means, 0.975))
    assert bootstrap_difference(ours.tolist(), theirs.tolist(), seed=7) == pytest.approx(expected)


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    generator = np.random.default_rng(8)
    held = 0
    for number in range(200):
        ours, theirs = generator.binomial(1, 0.6, size=(2, 60)) * [[1.0], [0.5]]
        _, low, high = bootstrap_difference(ours.tolist(), theirs.tolist(), seed=number)
        held += low <= 0.6 - 0.3 <= high
    assert 0.89 <= held / 200 <= 0.99
