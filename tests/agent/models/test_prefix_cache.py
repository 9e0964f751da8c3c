"""What a model keeps of the prompts it has read: by user, bounded, and dropped at a forgetting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memagent.agent.models.prefix_cache import PrefixCache, PrefixScope, count_shared, drop_prefixes

ANA = PrefixScope("journal", "ana", 0)


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [([], [1], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2], 2), ([1, 2, 3], [1, 5, 3], 1), ([1], [2], 0)],
)
def test_shared_tokens_are_those_before_the_first_difference(
    first: list[int], second: list[int], shared: int
) -> None:
    assert count_shared(first, second) == count_shared(second, first) == shared


def test_a_lookup_returns_the_entry_that_shares_most_tokens() -> None:
    cache = PrefixCache[str]()
    assert cache.lookup(ANA, [1, 2]) == (0, None)
    cache.add(ANA, [1, 2, 3], "three")
    cache.add(ANA, [1, 9], "two")
    assert cache.lookup(ANA, [1, 2, 3, 4]) == (3, "three")
    assert cache.lookup(ANA, [1, 2]) == (2, "three")
    assert cache.lookup(ANA, [1, 9, 9]) == (2, "two")
    assert cache.lookup(ANA, [5]) == (0, None)


@pytest.mark.parametrize("other", [replace(ANA, user="bob"), replace(ANA, journal="another")])
def test_another_user_or_journal_shares_nothing(other: PrefixScope) -> None:
    cache = PrefixCache[str]()
    cache.add(ANA, [1, 2], "of ana")
    assert cache.lookup(other, [1, 2]) == (0, None)
    cache.add(other, [1, 2], "of the other")
    assert cache.lookup(ANA, [1, 2]) == (2, "of ana")


def test_an_entry_takes_the_place_of_those_it_continues() -> None:
    cache = PrefixCache[str]()
    cache.add(ANA, [1, 2], "short")
    cache.add(ANA, [1, 3], "other")
    cache.add(ANA, [1, 2, 3], "long")
    assert cache.tokens == 5
    assert cache.lookup(ANA, [1, 2]) == (2, "long")


def test_the_least_recently_used_are_dropped_first() -> None:
    cache = PrefixCache[str](max_tokens=6)
    for number in (1, 2, 3):
        cache.add(ANA, [number, number], str(number))
    cache.lookup(ANA, [1, 1])
    cache.add(ANA, [4, 4], "4")
    assert [cache.lookup(ANA, [number])[1] for number in (1, 2, 3, 4)] == ["1", None, "3", "4"]
    assert cache.tokens == 6


def test_a_prefix_beyond_the_bound_is_not_kept_and_drops_nothing() -> None:
    cache = PrefixCache[str](max_tokens=2)
    cache.add(ANA, [1, 2], "fits")
    cache.add(ANA, [1, 2, 3], "does not")
    assert cache.lookup(ANA, [1, 2, 3]) == (2, "fits")


def test_a_forgetting_drops_what_was_kept_of_the_user_alone() -> None:
    cache, bob = PrefixCache[str](), replace(ANA, user="bob")
    cache.add(ANA, [1], "of ana")
    cache.add(bob, [1], "of bob")
    drop_prefixes(replace(ANA, forgetting=1))
    assert cache.tokens == 1
    assert cache.lookup(bob, [1]) == (1, "of bob")
    assert cache.lookup(replace(ANA, forgetting=1), [1]) == (0, None)


def test_a_later_forgetting_that_another_process_noted_drops_it_at_the_next_lookup() -> None:
    cache = PrefixCache[str]()
    cache.add(ANA, [1], "old")
    assert cache.lookup(replace(ANA, forgetting=3), [1]) == (0, None)
    assert cache.tokens == 0


def test_a_reply_that_began_before_a_forgetting_keeps_and_gets_nothing_afterwards() -> None:
    cache = PrefixCache[str]()
    after = replace(ANA, forgetting=1)
    cache.drop(after)
    cache.add(ANA, [1], "read before")
    assert cache.tokens == 0
    cache.add(after, [1], "read after")
    assert cache.lookup(ANA, [1]) == (0, None)
    assert cache.lookup(after, [1]) == (1, "read after")


def test_entries_of_equal_tokens_are_replaced_though_states_cannot_be_compared() -> None:
    class State:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("states are tensors")

        __hash__ = None  # type: ignore[assignment]

    cache, state = PrefixCache[State](), State()
    cache.add(ANA, [1], State())
    cache.add(replace(ANA, user="bob"), [1], State())
    cache.add(ANA, [1], state)
    assert cache.lookup(ANA, [1])[1] is state
    assert cache.tokens == 2
