"""Reciprocal-rank fusion against its formula."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memagent.backends.shared.fusion import reciprocal_rank_fusion

RANKINGS = st.lists(st.lists(st.integers(0, 30), unique=True, max_size=20), min_size=1, max_size=6)


def naive(rankings: list[list[int]], k: float) -> dict[int, float]:
    """The formula word by word: the sum of 1 / (k + rank), as a share of the largest possible sum."""
    keys = {key for ranking in rankings for key in ranking}
    largest = len(rankings) * 1 / (k + 1)
    return {
        key: sum(1 / (k + ranking.index(key) + 1) for ranking in rankings if key in ranking) / largest
        for key in keys
    }


@given(RANKINGS, st.floats(0.0, 100.0))
@settings(deadline=None)
def test_scores_are_those_of_the_formula(rankings: list[list[int]], k: float) -> None:
    assert reciprocal_rank_fusion(rankings, k) == pytest.approx(naive(rankings, k))


@given(RANKINGS, st.floats(0.0, 100.0))
@settings(deadline=None)
def test_the_highest_score_comes_first_and_none_leaves_the_unit_interval(
    rankings: list[list[int]], k: float
) -> None:
    scores = list(reciprocal_rank_fusion(rankings, k).values())
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 < score <= 1.0 + 1e-9 for score in scores)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_first_everywhere_scores_one(count: int) -> None:
    rankings = [["best", f"other{number}"] for number in range(count)]
    found = reciprocal_rank_fusion(rankings, 10.0)
    assert next(iter(found)) == "best"
    assert found["best"] == pytest.approx(1.0)


def test_ties_stay_in_order_of_first_appearance() -> None:
    assert list(reciprocal_rank_fusion([["b", "a"], ["a", "b"]], 10.0)) == ["b", "a"]
    assert list(reciprocal_rank_fusion([["a", "b"], ["b", "a"]], 10.0)) == ["a", "b"]


def test_a_small_constant_lets_one_top_rank_outweigh_two_middle_ones() -> None:
    rankings = [["top", "x", "y", "both"], ["z", "x", "y", "both"]]
    small, large = reciprocal_rank_fusion(rankings, 0.5), reciprocal_rank_fusion(rankings, 60.0)
    assert small["top"] > small["both"]
    assert large["top"] < large["both"]


@pytest.mark.parametrize("rankings", [[], [[]], [[], []]])
def test_nothing_ranked_gives_nothing(rankings: list[list[str]]) -> None:
    assert reciprocal_rank_fusion(rankings, 10.0) == {}


def test_an_empty_ranking_halves_the_scores_of_the_other() -> None:
    assert reciprocal_rank_fusion([["a"], []], 10.0) == pytest.approx({"a": 0.5})


@given(RANKINGS, st.floats(0.1, 10.0))
@settings(deadline=None)
def test_equal_weights_change_nothing(rankings: list[list[int]], weight: float) -> None:
    weighted = reciprocal_rank_fusion(rankings, 10.0, [weight] * len(rankings))
    assert weighted == pytest.approx(reciprocal_rank_fusion(rankings, 10.0))


def test_what_counts_more_decides() -> None:
    rankings = [["a", "b"], ["b", "a"]]
    assert list(reciprocal_rank_fusion(rankings, 10.0, [1.0, 2.0])) == ["b", "a"]
    assert list(reciprocal_rank_fusion(rankings, 10.0, [2.0, 1.0])) == ["a", "b"]
    assert reciprocal_rank_fusion([["a"], ["a"]], 10.0, [1.0, 3.0])["a"] == pytest.approx(1.0)
