"""Consolidation: what merges or is evicted first, what a merge keeps, and that nothing drifts over many insertions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memagent.backends.context_bank.bank import ContextBank
from memagent.backends.context_bank.blocks import (
    MAX_MAGNITUDE,
    Block,
    Precision,
    dequantise,
    quantise,
)
from memagent.backends.context_bank.consolidation import (
    ConsolidationRule,
    Moment,
    consolidate,
    importances,
)
from memagent.backends.context_bank.similarities import average_attention
from memagent.backends.errors import SettingError
from tests.backends.context_bank.events import DIM, conversation, replay, state_bytes, vectors_of

ARRIVAL = Moment(1, turn=64)


def block_with(
    *vectors: Any, precision: Precision = "float32", uses: tuple[tuple[int, int], ...] = ()
) -> Block:
    """Return block 0 with one vector for each turn from 1."""
    rows = np.array(vectors, np.float32)
    block = Block.empty(0, rows.shape[1], precision)
    for seq, row in enumerate(rows, start=1):
        block = block.append(seq, row[None])
    return replace(block, uses=np.array(sorted(uses), np.int64).reshape(-1, 2))


def turns(block: Block) -> list[list[int]]:
    return [(np.flatnonzero(row) + block.first_seq).tolist() for row in block.weights]


def test_plain_merges_the_most_similar_pair() -> None:
    block = block_with([1, 0, 0], [0, 1, 0], [0.9, 0.1, 0], [0, 0, 1])
    merged = consolidate(block, 3, ConsolidationRule("plain"), ARRIVAL)
    assert turns(merged) == [[1, 3], [2], [4]]
    np.testing.assert_allclose(merged.vectors[0], [0.95, 0.05, 0])
    assert merged.records["cosine"][0] == pytest.approx(0.9 / np.hypot(0.9, 0.1))


def test_balanced_merges_vectors_of_one_turn_first() -> None:
    block = Block.empty(0, 3, "float32")
    for seq, rows in enumerate(([[1, 0, 0], [0, 1, 0]], [[1, 0.1, 0]], [[0, 0, 1]]), start=1):
        block = block.append(seq, np.array(rows, np.float32))
    assert turns(consolidate(block, 3, ConsolidationRule("plain"), ARRIVAL)) == [[1, 2], [1], [3]]
    assert turns(consolidate(block, 3, ConsolidationRule("balanced"), ARRIVAL)) == [[1], [2], [3]]


def test_balanced_adds_to_small_merged_vectors_before_large_ones_and_single_ones() -> None:
    rule = ConsolidationRule("balanced")
    block = block_with([1, 0], [0.6, 0.8], [0.1, 1], [-1, -1])
    in_fours = replace(block, weights=block.weights * np.array([[4], [1], [2], [1]], np.int32))
    assert turns(consolidate(in_fours, 3, ConsolidationRule("plain"), ARRIVAL)) == [[1], [2, 3], [4]]
    in_eights = replace(block, weights=block.weights * np.array([[2], [1], [8], [1]], np.int32))
    assert turns(consolidate(in_eights, 3, rule, ARRIVAL)) == [[1, 2], [3], [4]]
    single = block_with([1, 0], [0.9, 0.4], [0.6, 0.8], [-1, -1])
    pairs = replace(single, weights=single.weights * np.array([[1], [1], [2], [1]], np.int32))
    assert turns(consolidate(pairs, 3, ConsolidationRule("plain"), ARRIVAL)) == [[1, 2], [3], [4]]
    assert turns(consolidate(pairs, 3, rule, ARRIVAL)) == [[1], [2, 3], [4]]


def test_of_equal_pairs_the_first_merges() -> None:
    block = block_with([1, 0], [0, 1], [1, 0], [0, 1])
    assert turns(consolidate(block, 3, ConsolidationRule("plain"), ARRIVAL)) == [[1, 3], [2], [4]]


def test_the_least_important_half_merges_first() -> None:
    block = block_with([1, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 0.5, 1], uses=((5, 1), (6, 1), (5, 2), (6, 2)))
    frequency_only = ConsolidationRule(beta=0, gamma=0)
    assert turns(consolidate(block, 3, frequency_only, ARRIVAL)) == [[1], [2], [3, 4]]
    recency_only = ConsolidationRule(alpha=0, beta=0)
    assert turns(consolidate(block_with(*block.vectors), 3, recency_only, ARRIVAL)) == [[1, 2], [3], [4]]
    assert turns(consolidate(block, 3, recency_only, ARRIVAL)) == [[1], [2], [3, 4]]
    attention_only = ConsolidationRule(alpha=0, gamma=0)
    assert turns(consolidate(block, 3, attention_only, ARRIVAL)) == [[1], [2], [3, 4]]


def test_only_uses_before_the_moment_count() -> None:
    block = block_with([1, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 0.5, 1], uses=((64, 1), (64, 2)))
    rule = ConsolidationRule(beta=0, gamma=0)
    assert turns(consolidate(block, 3, rule, Moment(1, turn=64))) == [[1, 2], [3], [4]]
    assert turns(consolidate(block, 3, rule, Moment(2))) == [[1], [2], [3, 4]]


def test_evictions_follow_their_policy() -> None:
    block = block_with(*np.eye(4), uses=((9, 1), (8, 2)))
    assert turns(consolidate(block, 2, ConsolidationRule("fifo"), ARRIVAL)) == [[3], [4]]
    assert turns(consolidate(block, 2, ConsolidationRule("lru"), ARRIVAL)) == [[1], [2]]
    chosen = {
        str(turns(consolidate(block, 2, ConsolidationRule("random", seed=seed), ARRIVAL)))
        for seed in range(30)
    }
    assert len(chosen) > 3


def test_random_eviction_is_a_function_of_the_vector_and_not_of_the_steps() -> None:
    block = block_with(*np.random.default_rng(0).normal(size=(40, DIM)))
    rule = ConsolidationRule("random", seed=5)
    at_once = consolidate(block, 5, rule, ARRIVAL)
    in_steps = block
    for quota in (33, 20, 19, 5):
        in_steps = consolidate(in_steps, quota, rule, ARRIVAL)
    assert turns(at_once) == turns(in_steps)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_merged_vector_is_the_mean_of_its_originals(precision: Precision) -> None:
    events = conversation(1, 64)
    bank = replay(ContextBank(DIM, 6, precision), events)
    originals = vectors_of(events, bank.turns)
    total = np.sum([rows.sum(axis=0) for seq, rows in originals.items() if seq <= 64], axis=0)
    first_block = np.flatnonzero(bank.sources.seqs[bank.sources.indptr[:-1]] <= 64)
    stored = (bank.vectors * bank.counts[:, None])[first_block].sum(axis=0)
    count = sum(len(rows) for seq, rows in originals.items() if seq <= 64)
    # An int8 code is off by at most 1/254 of the largest element (about 3), once more at each merge.
    np.testing.assert_allclose(stored / count, total / count, atol=1e-6 if precision == "float32" else 0.02)
    assert bank.counts[first_block].sum() == count


def test_sums_add_up() -> None:
    block = block_with([1, 0, 0], [2, 0, 0], [0, 3, 0])
    merged = consolidate(block, 1, ConsolidationRule("plain", merge="sum"), ARRIVAL)
    np.testing.assert_allclose(merged.vectors, [[3, 3, 0]])


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("scale", [0, 1e-45, 1e-30, 1e29])
def test_sums_of_extreme_vectors_stay_finite(precision: Precision, scale: float) -> None:
    bank = ContextBank(4, 3, precision, ConsolidationRule(merge="sum"))
    for seq in range(1, 200):
        bank.add(seq, np.full((2, 4), scale))
    assert np.isfinite(bank.vectors).all()
    assert np.isfinite(bank.average_attention).all()
    assert np.abs(bank.vectors).max() <= 1.01 * MAX_MAGNITUDE
    assert state_bytes(ContextBank.restore(bank.tensors(), 4, 3, precision, bank.rule)) == state_bytes(bank)


def test_similarity_is_judged_by_the_key() -> None:
    block = block_with([1, 0, 9], [0, 1, 9], [1, 0.1, -9])
    assert turns(consolidate(block, 2, ConsolidationRule("plain"), ARRIVAL)) == [[1, 2], [3]]
    assert turns(consolidate(block, 2, ConsolidationRule("plain", key_dim=2), ARRIVAL)) == [[1, 3], [2]]


def test_average_attention_is_higher_for_central_vectors() -> None:
    attention = average_attention(np.array([[1, 0.2], [1, 0], [1, -0.2], [-1, 0]]))
    assert attention.argmax() == 1
    assert attention.argmin() == 3
    assert attention.sum() == pytest.approx(4 / 3, abs=1e-5)
    assert average_attention(np.ones((1, 3))).tolist() == [0]
    assert average_attention(np.zeros((0, 3))).tolist() == []


def test_importance_is_the_weighted_sum_of_scaled_factors() -> None:
    rule = ConsolidationRule(alpha=1, beta=2, gamma=4)
    used, attention = np.array([0.0, 5.0, 10.0]), np.full(3, 0.5, np.float32)
    latest = np.array([30, 10, 20])
    assert importances(rule, used, attention, latest).tolist() == [4, 0.5, 3]


@pytest.mark.parametrize(
    "settings",
    [
        {"policy": "best"},
        {"merge": "maximum"},
        {"alpha": -1},
        {"beta": float("nan")},
        {"gamma": float("inf")},
        {"candidates": 0},
        {"candidates": 1.1},
        {"key_dim": -1},
    ],
)
def test_a_rule_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        ConsolidationRule(**settings)


def test_int8_is_close_and_keeps_zeros() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, DIM)).astype(np.float32)
    vectors[3] = 0
    codes, scales = quantise(vectors, "int8")
    assert codes.dtype == np.int8
    error = np.abs(dequantise(codes, scales) - vectors).max(axis=1)
    assert (error <= np.abs(vectors).max(axis=1) / 254 * 1.001).all()


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("num_turns", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_insertions_are_bounded_and_do_not_drift(precision: Precision, num_turns: int) -> None:
    draw = np.random.default_rng(7)
    topics = draw.normal(size=(20, 32)).astype(np.float32)
    banks = [ContextBank(32, 200, precision), ContextBank(32, 200, precision)]
    total, max_norm = np.zeros(32), 0.0
    for seq in range(1, num_turns + 1):
        vector = topics[seq % 20] + draw.normal(size=32).astype(np.float32) / 10
        total += vector
        max_norm = max(max_norm, float(np.linalg.norm(vector)))
        used = {1 + seq // 2, 1 + seq // 3}
        for number, bank in enumerate(banks):
            bank.add(seq, vector[None])
            if seq % 5 == 0:
                bank.note_use(seq, used)
            if number and seq % 500 == 0:
                banks[1] = ContextBank.restore(bank.tensors(), 32, 200, precision)
        if seq % 100 == 0:
            norms = np.linalg.norm(banks[0].vectors, axis=1)
            assert len(norms) <= 200
            # Means are no longer than what they are means of, and they still are its means.
            assert norms.max() <= 1.02 * max_norm
            mean = banks[0].counts @ banks[0].vectors / seq
            np.testing.assert_allclose(mean, total / seq, atol=1e-5 if precision == "float32" else 0.01)
    assert np.isfinite(banks[0].vectors).all()
    assert banks[0].counts.sum() == num_turns
    assert state_bytes(banks[0]) == state_bytes(banks[1])
