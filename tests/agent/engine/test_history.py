"""The first of the recent turns in a prompt: within the limit, and the same for many turns."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from memagent.agent.engine.history import first_kept


def test_all_turns_are_kept_while_they_fit() -> None:
    assert first_kept([], 10) == 0
    assert first_kept([4, 3, 3], 10) == 0
    assert first_kept([1], 0) == 1


def test_half_the_limit_is_free_after_a_cut() -> None:
    assert first_kept([3, 3, 3, 3], 10) == 3
    assert first_kept([3, 3, 3, 3, 3, 3], 10) == 3
    assert first_kept([3, 3, 3, 3, 3, 3, 3], 10) == 6


def test_a_long_turn_is_kept_as_long_as_it_fits() -> None:
    assert first_kept([3, 7, 2], 10) == 1
    assert first_kept([3, 7, 2, 1], 10) == 1
    assert first_kept([3, 7, 2, 2], 10) == 2
    assert first_kept([3, 11, 2], 10) == 2
    assert first_kept([3, 11], 10) == 2


@pytest.mark.parametrize("seed", range(20))
def test_the_kept_turns_fit_and_the_cut_never_moves_back(seed: int) -> None:
    chance = random.Random(seed)
    limit = chance.randrange(1, 200)
    sizes = [chance.randrange(1, max(2, limit // 3)) for _ in range(200)]
    cuts = [first_kept(sizes[:count], limit) for count in range(201)]
    assert all(sum(sizes[cut:count]) <= limit for count, cut in enumerate(cuts))
    assert cuts == sorted(cuts)
    # From one cut to the next, half the limit comes in; the turn that exceeds it may be among that.
    counts = [count for count, (before, after) in enumerate(pairwise(cuts), 1) if after != before]
    assert all(sum(sizes[first:second]) >= limit // 2 for first, second in pairwise(counts))
