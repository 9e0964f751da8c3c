"""The generator of pairwise test cases: complete, small, reproducible."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest

from tests.kernels.pairwise import Case, pairwise_cases

PARAMETERS: dict[str, list[Any]] = {
    "size": [1, 2, 3, 63, 130],
    "mask": ["none", "causal", "boolean", "additive"],
    "dtype": ["float32", "bfloat16"],
    "top_k": [None, 5, 16],
    "length": [0, 1, 64],
}


def small_mask(case: Case) -> bool:
    return not (case.get("mask") == "causal" and case.get("size") in (63, 130))


def meets(cases: list[Case], values: Case) -> bool:
    return any(values.items() <= case.items() for case in cases)


def test_every_pair_of_values_occurs() -> None:
    cases = pairwise_cases(PARAMETERS)
    for first, second in combinations(PARAMETERS, 2):
        for a, b in product(PARAMETERS[first], PARAMETERS[second]):
            assert meets(cases, {first: a, second: b}), (first, a, second, b)
    assert all(set(case) == set(PARAMETERS) for case in cases)


def test_the_cases_are_few() -> None:
    # At least 5 x 4, of 360 in the product.
    assert 20 <= len(pairwise_cases(PARAMETERS)) <= 24


def test_forbidden_pairs_are_left_out_and_all_others_occur() -> None:
    cases = pairwise_cases(PARAMETERS, allowed=small_mask)
    assert all(small_mask(case) for case in cases)
    for first, second in combinations(PARAMETERS, 2):
        for a, b in product(PARAMETERS[first], PARAMETERS[second]):
            assert meets(cases, {first: a, second: b}) == small_mask({first: a, second: b})


def test_a_seed_gives_the_same_cases_again() -> None:
    assert pairwise_cases(PARAMETERS, seed=3) == pairwise_cases(PARAMETERS, seed=3)
    assert pairwise_cases(PARAMETERS, seed=3) != pairwise_cases(PARAMETERS, seed=4)


def test_one_parameter_has_no_pairs() -> None:
    with pytest.raises(ValueError, match="at least two parameters"):
        pairwise_cases({"size": [1, 2]})


def test_a_pair_that_fits_no_case_is_an_error() -> None:
    def allowed(case: Case) -> bool:
        return not (case.get("size") == 1 and case.get("length") is not None)

    with pytest.raises(ValueError, match="'size': 1.*with some values of the other parameters"):
        pairwise_cases(PARAMETERS, allowed=allowed)
