"""Correlation matrices: each version against the equations, exact sums, and arguments that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from memagent.kernels.cmm import accumulate, eager, naive, nearest_codes, retrieve
from memagent.kernels.cmm.checks import check_range
from tests.kernels.pairwise import Case, pairwise_cases

CASES = pairwise_cases(
    {
        "pairs": [0, 1, 7, 65],
        "d_in": [1, 17, 64],
        "d_out": [1, 33, 70],
        "kind": ["signs", "int8", "sparse", "float32", "float64"],
        "subtract": [False, True],
    }
)


def case_name(case: Case) -> str:
    return "-".join(map(str, case.values()))


def random_rows(count: int, size: int, kind: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "signs":
        return (2 * torch.randint(0, 2, (count, size), generator=generator) - 1).to(torch.int8)
    if kind == "sparse":
        rows = torch.randint(-2, 3, (count, size), generator=generator)
        return (rows * (torch.arange(size) % 7 == 0)).to(torch.int8)
    if kind == "int8":
        return torch.randint(-128, 128, (count, size), generator=generator).to(torch.int8)
    return torch.randn(count, size, generator=generator, dtype=getattr(torch, kind))


def pairs_of(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return a matrix that is not empty, keys and values."""
    keys, values = (random_rows(case["pairs"], case[name], case["kind"], 1) for name in ("d_in", "d_out"))
    matrix = 100 * torch.randn(case["d_in"], case["d_out"], generator=torch.Generator().manual_seed(2))
    return matrix.to(torch.int32 if keys.dtype == torch.int8 else keys.dtype), keys, values


def assert_same_sums(actual: Tensor, expected: Tensor) -> None:
    """Compare integers exactly, floats to their rounding."""
    exact = not expected.is_floating_point()
    torch.testing.assert_close(actual, expected, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-4)


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_accumulate_matches_naive(case: Case) -> None:
    matrix, keys, values = pairs_of(case)
    expected, actual = matrix.clone(), matrix.clone()
    naive.accumulate(expected, keys, values, subtract=case["subtract"])
    accumulate(actual, keys, values, subtract=case["subtract"])
    assert_same_sums(actual, expected)


def test_sums_of_integers_are_exact_beyond_what_one_float_product_holds() -> None:
    keys = torch.full((2051, 3), 127, dtype=torch.int8)
    values = torch.full((2051, 2), -127, dtype=torch.int8)
    matrix = torch.zeros(3, 2, dtype=torch.int32)
    accumulate(matrix, keys, values)
    assert bool((matrix == -2051 * 127 * 127).all())


def test_integers_forget_every_bit_in_any_order() -> None:
    keys, values = random_rows(50, 33, "int8", 3), random_rows(50, 40, "int8", 4)
    matrix = torch.zeros(33, 40, dtype=torch.int32)
    accumulate(matrix, keys, values)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(5))
    for row in order[:20]:
        accumulate(matrix, keys[row, None], values[row, None], subtract=True)
    expected = torch.zeros_like(matrix)
    accumulate(expected, keys[order[20:]], values[order[20:]])
    assert torch.equal(matrix, expected)


@pytest.mark.parametrize("subtract", [False, True])
def test_overflow_is_refused_and_leaves_the_matrix_alone(subtract: bool) -> None:
    limit = torch.iinfo(torch.int32)
    edge = limit.min if subtract else limit.max
    matrix = torch.tensor([[0, edge], [5, 6]], dtype=torch.int32)
    key, value = torch.tensor([[1, 0]], dtype=torch.int8), torch.tensor([[0, 1]], dtype=torch.int8)
    before = matrix.clone()
    with pytest.raises(OverflowError, match="within int32, but these 1 pairs would take one to 21474836"):
        accumulate(matrix, key, value, subtract=subtract)
    assert torch.equal(matrix, before)
    # The largest magnitudes alone would forbid this pair; the sums allow it.
    accumulate(matrix, key, value, subtract=not subtract)
    assert int(matrix[0, 1]) == edge + (1 if subtract else -1)


def test_the_range_is_checked_by_sums_only_near_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, rows = torch.zeros(2, 2, dtype=torch.int32), torch.ones(1, 2, dtype=torch.int8)
    monkeypatch.setattr(Tensor, "__matmul__", None)
    check_range(matrix, rows, rows, subtract=False)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_inf_and_nan_are_refused(bad: float) -> None:
    matrix, good = torch.zeros(2, 2), torch.ones(1, 2)
    broken = torch.tensor([[1.0, bad]])
    with pytest.raises(ValueError, match="keys are expected to be finite, but some are inf or NaN"):
        accumulate(matrix, broken, good)
    with pytest.raises(ValueError, match="values are expected to be finite"):
        accumulate(matrix, good, broken)
    with pytest.raises(ValueError, match="queries are expected to be finite"):
        retrieve(broken, matrix)
    with pytest.raises(ValueError, match="vectors are expected to be finite"):
        nearest_codes(broken, good, 1)
    assert not matrix.any()


def test_sums_of_floats_that_overflow_are_refused() -> None:
    matrix, large = torch.ones(1, 1), torch.full((1, 1), 3e38)
    with pytest.raises(OverflowError, match=r"within torch\.float32, but some overflow to inf"):
        accumulate(matrix, large, large)
    assert matrix.tolist() == [[1.0]]


def test_sparse_keys_touch_their_rows_only() -> None:
    matrix = torch.full((100, 3), 2**31 - 1, dtype=torch.int32)
    matrix[50] = 0
    keys, values = torch.zeros(1, 100, dtype=torch.int8), torch.ones(1, 3, dtype=torch.int8)
    keys[0, 50] = 2
    accumulate(matrix, keys, values)
    assert matrix[50].tolist() == [2, 2, 2]
    assert bool((matrix[:50] == 2**31 - 1).all())
    accumulate(matrix, keys * 0, values)


@pytest.mark.parametrize("kind", ["signs", "sparse", "float32", "float64"])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_retrieve_matches_naive(kind: str, count: int) -> None:
    queries = random_rows(count, 17, kind, 6)
    matrix = (100 * torch.randn(17, 9, generator=torch.Generator().manual_seed(7))).to(torch.int32)
    torch.testing.assert_close(retrieve(queries, matrix), naive.retrieve(queries, matrix))


@pytest.mark.parametrize("limit", [1, 3, 50])
@pytest.mark.parametrize("kind", ["signs", "float32"])
@pytest.mark.parametrize("chunk", [4, 9, 2048])
def test_nearest_codes_match_naive(
    limit: int, kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager, "_CODES", chunk)
    vectors, codes = random_rows(5, 13, "float32", 8), random_rows(37, 13, kind, 9)
    scores, rows = nearest_codes(vectors, codes, limit)
    expected_scores, expected_rows = naive.nearest_codes(vectors, codes, limit)
    torch.testing.assert_close(scores, expected_scores)
    assert torch.equal(rows, expected_rows)


def test_arguments_that_do_not_fit_are_refused() -> None:
    matrix, rows = torch.zeros(2, 3, dtype=torch.int32), torch.ones(1, 2, dtype=torch.int8)
    calls: list[tuple[Any, str]] = [
        (
            lambda: accumulate(matrix, rows, rows),
            r"values of a matrix \[2, 3\] .* torch.int8 \[1, 3\] rather than",
        ),
        (
            lambda: accumulate(matrix, rows.float(), rows),
            r"keys .* torch.int8 \[1, 2\] rather than torch.float32",
        ),
        (lambda: accumulate(matrix.T, rows, rows), "contiguous int32, float32 or float64"),
        (lambda: accumulate(matrix.long(), rows, rows), "contiguous int32, float32 or float64"),
        (lambda: retrieve(rows[:, :1], matrix), r"queries \[n, d_in\] and a matrix"),
        (lambda: retrieve(rows.long(), matrix), "int8 or floating rather than torch.int64"),
        (lambda: nearest_codes(torch.ones(1, 2), matrix, 1), r"vectors \[n, dim\] and codes"),
        (lambda: nearest_codes(torch.ones(1, 2), rows[:0], 1), "one or more"),
        (
            lambda: nearest_codes(torch.ones(1, 2), rows, 0),
            "limit is expected to be at least 1 rather than 0",
        ),
        (lambda: nearest_codes(rows, rows, 1), "float32 or float64 rather than torch.int8"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()
