"""Pairwise test cases: few cases in which every two values of different parameters still meet."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

Case = dict[str, Any]
Pair = tuple[tuple[str, int], tuple[str, int]]
_CANDIDATES = 20


def pairwise_cases(
    parameters: Mapping[str, Sequence[Any]],
    *,
    seed: int = 0,
    allowed: Callable[[Case], bool] = lambda case: True,
) -> list[Case]:
    """Return cases that together contain every allowed pair of values of two parameters.

    Each case begins with a pair that is missing so far; its other values are chosen greedily, in random order, for the
    missing pairs they add. The best of 20 such candidates is taken (AETG: Cohen et al., IEEE Transactions on Software
    Engineering 23(7), 1997).

    Args:
        parameters: The values of each parameter, by name: two parameters or more, with one value or more each.
        seed: Of the random order. The same arguments give the same cases.
        allowed: Returns whether a case may occur. It is called with incomplete cases too, and must be true of these unless
            the values they have are forbidden together.

    Raises:
        ValueError: There are fewer than two parameters, or the values of a pair are allowed together, but with no values of the other parameters.
    """
    if len(parameters) < 2:
        raise ValueError("at least two parameters are expected")
    levels = {name: range(len(values)) for name, values in parameters.items()}
    rng = random.Random(seed)

    def valid(indices: Mapping[str, int]) -> bool:
        return allowed({name: parameters[name][index] for name, index in indices.items()})

    missing = {
        ((first, i), (second, j))
        for first, second in combinations(sorted(levels), 2)
        for i, j in product(levels[first], levels[second])
        if valid({first: i, second: j})
    }
    cases = []
    while missing:
        pair = min(missing)
        candidates = [_completed(dict(pair), levels, missing, valid, rng) for _ in range(_CANDIDATES)]
        complete = [candidate for candidate in candidates if len(candidate) == len(levels)]
        if not complete:
            values = {name: parameters[name][index] for name, index in pair}
            raise ValueError(f"{values} is expected to be allowed with some values of the other parameters")
        best = max(complete, key=lambda candidate: len(missing & _pairs(candidate)))
        missing -= _pairs(best)
        cases.append({name: parameters[name][best[name]] for name in parameters})
    return cases


def _completed(
    indices: dict[str, int],
    levels: Mapping[str, range],
    missing: set[Pair],
    valid: Callable[[Mapping[str, int]], bool],
    rng: random.Random,
) -> dict[str, int]:
    """Choose the other parameters' values; the result lacks a parameter if none of its values is allowed."""
    names = [name for name in levels if name not in indices]
    for name in rng.sample(names, len(names)):
        options = [indices | {name: index} for index in levels[name] if valid(indices | {name: index})]
        rng.shuffle(options)
        indices = max(options, key=lambda option: len(missing & _pairs(option)), default=indices)
    return indices


def _pairs(indices: Mapping[str, int]) -> set[Pair]:
    return set(combinations(sorted(indices.items()), 2))
