"""The bank: bounded, a function of the turns and uses alone, exact forgetting, a checked state."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from memagent.backends.context_bank.bank import ContextBank
from memagent.backends.context_bank.blocks import TURNS_PER_BLOCK, Precision
from memagent.backends.context_bank.consolidation import ConsolidationRule
from memagent.backends.errors import SettingError
from tests.backends.context_bank.events import (
    DIM,
    Event,
    conversation,
    replay,
    state_bytes,
    vectors_of,
)

RULES = {
    "merge": ConsolidationRule(),
    "merge keys": ConsolidationRule(key_dim=5, candidates=0.3),
    "sum": ConsolidationRule(merge="sum"),
    "attention only": ConsolidationRule(alpha=0, gamma=0),
    "plain": ConsolidationRule("plain"),
    "balanced": ConsolidationRule("balanced"),
    "random": ConsolidationRule("random", seed=3),
    "fifo": ConsolidationRule("fifo"),
    "lru": ConsolidationRule("lru"),
}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
each_precision = pytest.mark.parametrize("precision", ["float32", "int8"])
rules = st.sampled_from(list(RULES.values()))
precisions: st.SearchStrategy[Precision] = st.sampled_from(["float32", "int8"])


def make(
    rule: ConsolidationRule | None = None, precision: Precision = "float32", capacity: int = 40
) -> ContextBank:
    return ContextBank(DIM, capacity, precision, rule)


@each_rule
@each_precision
@pytest.mark.parametrize("capacity", [1, 7, 40, 10_000])
def test_a_bank_is_bounded_and_keeps_account(
    rule: ConsolidationRule, precision: Precision, capacity: int
) -> None:
    bank = make(rule, precision, capacity)
    total = 0
    for event in conversation(1, 180, gap=3):
        replay(bank, [event])
        total += 0 if event.vectors is None else len(event.vectors)
        num_blocks = (bank.newest_seq - 1) // TURNS_PER_BLOCK + 1
        assert len(bank) <= max(capacity, num_blocks)
        assert len(bank) + bank.removals == total
    assert np.isfinite(bank.vectors).all()
    assert bank.vectors.shape == (len(bank), DIM)
    assert bank.vectors.dtype == np.float32
    assert bank.sources.indptr[-1] == len(bank.sources.seqs) == len(bank.sources.weights)
    if rule.merges:
        assert bank.counts.sum() == total
        weights = np.bincount(bank.sources.seqs, bank.sources.weights)
        assert {seq: weights[seq] for seq in bank.turns} == bank.turns
    for values in (bank.counts, bank.average_attention, bank.frequency, bank.recency):
        assert len(values) == len(bank)


@given(st.integers(0, 10_000), rules, precisions, st.integers(1, 80), st.integers(1, 40), st.randoms())
@settings(max_examples=25, deadline=None)
def test_forgetting_leaves_the_state_of_a_bank_that_never_got_the_turns(
    seed: int,
    rule: ConsolidationRule,
    precision: Precision,
    capacity: int,
    gap: int,
    draw: random.Random,
) -> None:
    events = conversation(seed, 60, gap=gap)
    bank = replay(make(rule, precision, capacity), events)
    forgotten = draw.sample([event.seq for event in events], draw.choice([1, 3, 20, len(events)]))
    if draw.random() < 0.5:  # the newest turns, and so perhaps the newest block
        forgotten = [event.seq for event in events[-draw.randrange(1, len(events)) :]]
        draw.shuffle(forgotten)
    done: set[int] = set()
    while len(done) < len(forgotten):
        seqs = forgotten[len(done) : len(done) + draw.randint(1, 8)]
        done.update(seqs)
        needed = bank.needed_to_forget(seqs)
        assert not needed & done
        assert bank.forget(seqs, vectors_of(events, needed))
    never = replay(make(rule, precision, capacity), events, done)
    assert state_bytes(bank) == state_bytes(never)
    np.testing.assert_array_equal(bank.average_attention, never.average_attention)
    np.testing.assert_array_equal(bank.vectors, never.vectors)


@given(st.integers(0, 10_000), rules, precisions, st.integers(1, 80), st.integers(1, 40), st.randoms())
@settings(max_examples=15, deadline=None)
def test_a_bank_that_was_stored_read_or_made_to_forget_midway_ends_in_the_same_state(
    seed: int,
    rule: ConsolidationRule,
    precision: Precision,
    capacity: int,
    gap: int,
    draw: random.Random,
) -> None:
    events = conversation(seed, 50, gap=gap)
    whole = replay(make(rule, precision, capacity), events)
    bank = make(rule, precision, capacity)
    extra: list[int] = []
    for event in events:
        replay(bank, [event])
        if draw.random() < 0.1:
            bank = ContextBank.restore(bank.tensors(), DIM, capacity, precision, rule)
        if draw.random() < 0.1:
            _ = bank.average_attention, bank.vectors, bank.log()
        if draw.random() < 0.05 and event is not events[-1]:
            seqs = draw.sample([past.seq for past in events if past.seq <= event.seq], 1)
            assert bank.forget(seqs, vectors_of(events, bank.needed_to_forget(seqs)))
            extra += seqs
    if extra:
        whole = replay(make(rule, precision, capacity), events, extra)
    assert state_bytes(bank) == state_bytes(whole)


def test_the_order_of_a_turn_and_the_uses_of_its_own_reply_changes_nothing() -> None:
    events = conversation(3, 60)
    first, second = make(), make()
    for event in events:
        if event.vectors is None:
            vectors = np.ones((1, DIM), np.float32) * event.seq
            first.note_use(event.seq, event.used)
            first.add(event.seq, vectors)
            second.add(event.seq, vectors)
            second.note_use(event.seq, event.used[:2])
            second.note_use(event.seq, [*event.used, event.seq, 10**6])
        else:
            replay(first, [event])
            replay(second, [event])
    assert state_bytes(first) == state_bytes(second)


def test_a_bank_with_room_only_drops_what_it_forgets() -> None:
    events = conversation(4, 200)
    bank = replay(make(capacity=10_000), events)
    seqs = [event.seq for event in events[::3]]
    assert not bank.needed_to_forget(seqs)
    assert bank.forget(seqs, {})
    assert state_bytes(bank) == state_bytes(replay(make(capacity=10_000), events, seqs))


def test_only_the_block_of_a_forgotten_turn_is_needed() -> None:
    events = conversation(5, 200)
    bank = replay(make(ConsolidationRule(alpha=0, gamma=0)), events)
    needed = bank.needed_to_forget([70])
    assert needed == {seq for seq in bank.turns if 65 <= seq <= 128} - {70}


def test_a_forgotten_reply_needs_the_merged_blocks_that_it_used() -> None:
    turns = [Event(seq, np.full((1, DIM), seq, np.float32)) for seq in range(1, 130)]
    events = [*turns[:20], Event(20, None, (3,)), *turns[20:]]
    used = replay(make(capacity=10), events)
    assert used.needed_to_forget([20]) == set(range(1, 65)) - {20}
    attention_only = replay(make(ConsolidationRule(alpha=0, gamma=0), capacity=10), events[:21])
    assert attention_only.needed_to_forget([1000]) == frozenset()
    late = replay(make(capacity=10), [*turns[:20], Event(40, None, (3,))])
    assert late.needed_to_forget([40]) == frozenset()
    assert late.forget([40], {})
    assert state_bytes(late) == state_bytes(replay(make(capacity=10), turns[:20]))


@each_precision
@pytest.mark.parametrize("fault", ["missing", "other", "fewer", "not finite", "another size"])
def test_a_bank_does_not_forget_from_vectors_that_it_never_got(precision: Precision, fault: str) -> None:
    events = conversation(6, 150)
    bank = replay(make(precision=precision), events)
    seqs = [events[10].seq]
    vectors: dict[int, NDArray[np.float32]] = vectors_of(events, bank.needed_to_forget(seqs))
    damaged = max(vectors)
    match fault:
        case "missing":
            del vectors[damaged]
        case "other":
            vectors[damaged] = vectors[damaged] + 1
        case "fewer":
            vectors[damaged] = vectors[damaged][:-1]
        case "not finite":
            vectors[damaged] = vectors[damaged] * np.float32(np.nan)
        case _:
            vectors[damaged] = vectors[damaged][:, 1:]
    before = state_bytes(bank)
    assert bank.forget(seqs, vectors) is False
    assert state_bytes(bank) == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e31])
def test_vectors_that_are_not_finite_are_refused(value: float) -> None:
    bank = replay(make(), conversation(7, 30))
    before = state_bytes(bank)
    vectors = np.ones((3, DIM), np.float32)
    vectors[1, 2] = value
    with pytest.raises(ValueError, match="not finite, or beyond"):
        bank.add(1000, vectors)
    assert state_bytes(bank) == before


@pytest.mark.parametrize("shape", [(0, DIM), (DIM,), (1, DIM - 1), (1, 1, DIM)])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="have the shape"):
        make().add(1, np.zeros(shape, np.float32))


def test_turns_and_uses_come_in_the_order_of_seqs() -> None:
    bank = make()
    bank.add(5, np.ones((1, DIM)))
    for seq in (0, 4, 5):
        with pytest.raises(ValueError, match="order"):
            bank.add(seq, np.ones((1, DIM)))
    with pytest.raises(ValueError, match="order"):
        bank.note_use(4, [5])
    bank.note_use(9, [5])
    with pytest.raises(ValueError, match="order"):
        bank.add(8, np.ones((1, DIM)))
    bank.add(9, np.ones((1, DIM)))


def test_frequency_and_recency_follow_the_uses() -> None:
    bank = make(capacity=1000)
    for seq in (1, 2, 3):
        bank.add(seq, np.ones((1, DIM)) * seq)
    bank.note_use(7, [1, 3])
    bank.note_use(9, [1])
    assert bank.frequency.tolist() == [2, 0, 1]
    assert bank.recency.tolist() == [9, 2, 7]


@pytest.mark.parametrize(
    "settings", [{"capacity": 0}, {"precision": "int4"}, {"rule": ConsolidationRule(key_dim=DIM + 1)}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        ContextBank(**{"dim": DIM, "capacity": 10, **settings})


@each_rule
def test_the_log_explains_every_vanished_vector(rule: ConsolidationRule) -> None:
    bank = replay(make(rule, capacity=30), conversation(8, 100))
    log = bank.log()
    assert len(log) == bank.removals == sum(bank.turns.values()) - len(bank)
    stored = {tuple(seqs) for seqs in np.split(bank.sources.seqs, bank.sources.indptr[1:-1])}
    for place, removal in enumerate(log):
        assert removal.block == (removal.removed[0] - 1) // TURNS_PER_BLOCK
        assert bool(removal.kept) == rule.merges
        assert removal.quota in {30, 15, 10}
        if rule.merges:
            result = tuple(sorted({*removal.kept, *removal.removed}))
            later = {seqs for other in log[place + 1 :] for seqs in (other.kept, other.removed)}
            assert result in later | stored
            assert -1.0001 <= removal.cosine <= 1.0001
        if rule.policy == "merge":
            assert 0 <= removal.kept_importance <= 3
    assert {removal.turn for removal in log} >= {None}


def test_the_log_is_bounded_and_counts_on() -> None:
    bank = replay(make(capacity=5), conversation(9, 60, most=20))
    assert bank.removals > 400
    assert len(bank.log()) <= 256 * 2
    assert state_bytes(ContextBank.restore(bank.tensors(), DIM, 5)) == state_bytes(bank)


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a missing tensor": lambda state: state.pop("turns.seqs"),
    "an unknown tensor": lambda state: state.update(more=np.zeros(1)),
    "codes of another type": lambda state: state.update(
        {"vectors.codes": state["vectors.codes"].astype(np.float64)}
    ),
    "vectors of another size": lambda state: state.update({"vectors.codes": state["vectors.codes"][:, 1:]}),
    "a vector less": lambda state: state.update({"vectors.codes": state["vectors.codes"][1:]}),
    "turns in another order": lambda state: np.copyto(
        state["turns.seqs"][:2], state["turns.seqs"][:2][::-1].copy()
    ),
    "a turn of another block": lambda state: np.copyto(state["turns.seqs"][-1:], 10**6),
    "more vectors of a turn": lambda state: np.copyto(state["turns.sizes"][:1], 99),
    "a turn without vectors": lambda state: np.copyto(state["turns.sizes"][:1], 0),
    "a negative check": lambda state: np.copyto(state["turns.checks"][:1], -1),
    "a source beyond the block": lambda state: np.copyto(state["sources.places"][:1], 64),
    "a negative weight": lambda state: np.copyto(state["sources.weights"][:1], -1),
    "no sources": lambda state: state["vectors.sources"].fill(0),
    "uses in another order": lambda state: np.copyto(state["uses"], state["uses"][::-1].copy()),
    "a use of an unknown turn": lambda state: np.copyto(state["uses"][:1, 1], 0),
    "a use before its turn": lambda state: np.copyto(state["uses"][:1, 0], 0),
    "more removals": lambda state: np.copyto(state["blocks.removals"][:1], 10**6),
    "negative counts": lambda state: np.copyto(state["blocks.vectors"][:1], -1),
    "blocks in another order": lambda state: np.copyto(
        state["blocks.numbers"], state["blocks.numbers"][::-1].copy()
    ),
    "a negative block": lambda state: np.copyto(state["blocks.numbers"][:1], -1),
    "a record of another block": lambda state: np.copyto(state["records.turn"][-1:], 1),
    "a record of no turn": lambda state: np.copyto(state["records.removed"][:1], 0),
    "a record from the future": lambda state: np.copyto(state["records.blocks"][-1:], 1000),
    "a record without a cosine": lambda state: np.copyto(state["records.cosine"][:1], np.nan),
}
BY_PRECISION: dict[tuple[Precision, str], Callable[[dict[str, Any]], object]] = {
    ("float32", "not finite"): lambda state: np.copyto(state["vectors.codes"][:1, 0], np.nan),
    ("float32", "too large"): lambda state: np.copyto(state["vectors.codes"][:1, 0], 1e35),
    ("int8", "a scale that is not finite"): lambda state: np.copyto(state["vectors.scales"][:1], np.inf),
    ("int8", "a negative scale"): lambda state: np.copyto(state["vectors.scales"][:1], -1),
    ("int8", "a code of -128"): lambda state: np.copyto(state["vectors.codes"][:1, 0], -128),
}


@pytest.mark.parametrize(
    ("precision", "damage"),
    [
        *[pytest.param("float32", damage, id=name) for name, damage in DAMAGES.items()],
        *[pytest.param(precision, damage, id=name) for (precision, name), damage in BY_PRECISION.items()],
    ],
)
def test_a_damaged_state_is_refused(precision: Precision, damage: Callable[[dict[str, Any]], object]) -> None:
    bank = replay(make(precision=precision), conversation(10, 150))
    state: dict[str, Any] = {name: array.copy() for name, array in bank.tensors().items()}
    damage(state)
    with pytest.raises(ValueError, match="the state of the bank"):
        ContextBank.restore(state, DIM, 40, precision)


def test_a_state_of_other_settings_is_refused() -> None:
    bank = replay(make(), conversation(11, 150))
    with pytest.raises(ValueError, match="quota"):
        ContextBank.restore(bank.tensors(), DIM, 20)
    for others in ({"precision": "int8"}, {"rule": ConsolidationRule("lru")}, {"dim": DIM + 1}):
        with pytest.raises(ValueError, match="the state of the bank"):
            ContextBank.restore(bank.tensors(), **{"dim": DIM, "capacity": 40, **others})  # type: ignore[arg-type]


def test_an_empty_bank_is_stored_and_read() -> None:
    bank = ContextBank.restore(make().tensors(), DIM, 40)
    assert len(bank) == bank.newest_seq == bank.bytes == 0
    assert bank.vectors.shape == (0, DIM)
    assert bank.sources.indptr.tolist() == [0]
    assert bank.forget([1, 2], {})
