"""The judge: when words count as said, and what is wrong with recollections and replies."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from memagent.agent.evaluation.scenarios.expect import Expectation
from memagent.agent.evaluation.scenarios.judge import contains_words, judge_recall, judge_reply
from memagent.backends.records import Recollection


def recollection(text: str, **fields: Any) -> Recollection:
    plain = Recollection(text, 1.0, (1,), "s", "user", datetime(2026, 1, 5, 9, tzinfo=UTC), "why")
    return replace(plain, **fields)


FOUND = [
    recollection("I moved to Porto."),
    recollection("My dog is called Biscuit.", session="dogs"),
    recollection("Lisbon is lovely, and so is Porto.", role="assistant", speaker="Bot"),
]


def wrong(found: list[Recollection] | None = None, seconds: float = 0.1, **expect: Any) -> list[str]:
    return judge_recall(Expectation.model_validate(expect), FOUND if found is None else found, seconds)


def wrong_reply(
    reply: str, seconds: float = 0.1, reply_seconds: float | None = None, **wanted: Any
) -> list[str]:
    expect = Expectation.model_validate({"reply": wanted, "reply_seconds": reply_seconds})
    return judge_reply(expect, reply, seconds)


# words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I moved to PORTO!", "porto"),
        ("Porto", "Porto"),
        ("my old  \n dog", "old dog"),
        ("Cafe\u0301 Central", "caf\u00e9 central"),
        ("Ich wohne in der Hauptstra\u00dfe.", "HAUPTSTRASSE"),
        ("It\u2019s Ana\u2019s", "ana's"),
        ("\uff30orto in fullwidth", "porto"),
        ("I write C++, mostly.", "C++"),
        ("it costs 12.50 euros", "12.50"),
        ("room 0042.", "0042"),
        ("a.c", "a.c"),
        ("\u6771\u4eac", "\u6771\u4eac"),
    ],
)
def test_words_are_found_whatever_case_spacing_and_unicode_form(text: str, words: str) -> None:
    assert contains_words(text, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Portobello", "porto"),
        ("an airport", "port"),
        ("caf\u00e9", "caf"),
        ("Cafe\u0301", "cafe"),
        ("abc", "a.c"),
        ("olddog", "old dog"),
        ("dog old", "old dog"),
        ("10042", "0042"),
        ("snake_case", "snake"),
        ("", "x"),
    ],
)
def test_a_part_of_a_word_is_not_the_word(text: str, words: str) -> None:
    assert not contains_words(text, words)


# recollections


def test_all_is_well_where_everything_is_as_expected() -> None:
    recalled = [{"contains": "Porto", "within": 1}, "Biscuit", {"contains": ["lisbon", "porto"], "within": 3}]
    assert not wrong(
        recalled=recalled,
        not_recalled="Berlin",
        order=["Porto", "Biscuit", "Lisbon"],
        at_most=3,
        recall_seconds=0.1,
    )


def test_what_is_not_recalled_is_named() -> None:
    assert wrong(recalled=["Berlin", "Porto"]) == ["not recalled: 'Berlin'"]
    assert wrong(recalled={"contains": ["Porto", "Biscuit"]}) == ["not recalled: 'Porto' and 'Biscuit'"]
    assert wrong([], recalled="Porto") == ["not recalled: 'Porto'"]


def test_the_rank_counts_from_one_and_is_that_of_the_first_that_fits() -> None:
    assert not wrong(recalled={"contains": "Biscuit", "within": 2})
    assert wrong(recalled={"contains": "Biscuit", "within": 1}) == [
        "recalled at rank 2, expected within 1: 'Biscuit'"
    ]
    assert not wrong(recalled={"contains": "porto", "within": 1})


def test_what_must_not_be_recalled_is_named_with_its_rank() -> None:
    assert wrong(not_recalled="Lisbon") == ["recalled at rank 3, but must not be: 'Lisbon'"]


def test_not_recalled_within_a_rank_allows_it_further_down() -> None:
    assert not wrong(not_recalled={"contains": "Lisbon", "within": 2})
    assert wrong(not_recalled={"contains": "Lisbon", "within": 3})


def test_order_names_what_stands_above_what_it_should_not() -> None:
    assert wrong(order=["Biscuit", "Porto", "Lisbon"]) == [
        "'Porto' stands at rank 1, not below 'Biscuit' at 2"
    ]
    assert wrong(order=["moved", "Porto"]) == ["'Porto' stands at rank 1, not below 'moved' at 1"]


def test_order_names_what_is_missing_first() -> None:
    assert wrong(order=["Berlin", "Porto", "Rome"]) == ["not recalled: 'Berlin'", "not recalled: 'Rome'"]


def test_nothing_means_no_recollection_at_all() -> None:
    assert not wrong([], nothing=True)
    assert wrong(nothing=True) == ["3 recollections, expected none"]


def test_at_most_counts_recollections() -> None:
    assert not wrong(at_most=3)
    assert wrong(at_most=2) == ["3 recollections, expected at most 2"]


@pytest.mark.parametrize(
    ("provenance", "described"),
    [
        ({"session": "s"}, "session s"),
        ({"role": "assistant"}, "role assistant"),
        ({"speaker": "Bot"}, "speaker Bot"),
        ({"on": "2026-01-06"}, "on 2026-01-06"),
        ({"session": "dogs", "role": "tool"}, "session dogs, role tool"),
    ],
)
def test_the_provenance_must_fit_too(provenance: dict[str, str], described: str) -> None:
    assert not wrong(recalled={"contains": "Biscuit", "session": "dogs", "role": "user", "on": "2026-01-05"})
    assert not wrong(recalled={"contains": "Porto", "role": "assistant", "speaker": "Bot", "within": 3})
    assert wrong(recalled={"contains": "Biscuit"} | provenance) == [f"not recalled: 'Biscuit' ({described})"]


def test_what_is_superseded_can_be_expected_to_be_marked() -> None:
    moved = recollection("I moved to Porto.", seqs=(2,))
    lived = recollection("I live in Lisbon.", superseded_by=2, superseded_at=moved.created_at)
    found = [moved, lived]
    assert not wrong(found, recalled={"contains": "Lisbon", "superseded": True})
    assert not wrong(found, not_recalled={"contains": "Lisbon", "superseded": False})
    assert wrong(found, recalled={"contains": "Porto", "superseded": True}) == [
        "not recalled: 'Porto' (superseded)"
    ]
    assert wrong(found, not_recalled={"contains": "Porto", "superseded": False}) == [
        "recalled at rank 1, but must not be: 'Porto' (not superseded)"
    ]


def test_a_day_is_one_of_utc() -> None:
    late = datetime(2026, 1, 5, 23, tzinfo=timezone(timedelta(hours=-5)))
    found = [recollection("Porto", created_at=late)]
    assert not wrong(found, recalled={"contains": "Porto", "on": "2026-01-06"})
    assert wrong(found, recalled={"contains": "Porto", "on": "2026-01-05"})


def test_a_recall_that_took_too_long_is_told() -> None:
    expected = "the recall took 0.512 s, expected at most 0.5 s"
    assert wrong(seconds=0.512, recall_seconds=0.5) == [expected]


def test_every_failure_is_told() -> None:
    assert len(wrong(recalled="Berlin", not_recalled="Porto", at_most=1, order=["Rome", "Oslo"])) == 5


# replies


def test_a_reply_may_be_all_that_is_wanted() -> None:
    assert not wrong_reply(
        "You live in Porto now.",
        contains=["porto", "You"],
        any_of=["Lisbon", "now"],
        lacks="Lisbon",
        matches=r"^you .*\.$",
        reply_seconds=1,
    )


def test_each_thing_wrong_with_a_reply_is_told() -> None:
    assert wrong_reply(
        "You live in Lisbon.",
        contains=["Porto", "Lisbon"],
        any_of=["now", "today"],
        lacks="lisbon",
        matches="P.rto",
    ) == [
        "the reply lacks 'Porto'",
        "the reply has none of 'now', 'today'",
        "the reply has 'lisbon', but must not",
        "the reply does not match 'P.rto'",
    ]


def test_a_reply_that_took_too_long_is_told() -> None:
    expected = "the answer took 2.50 s, expected at most 2 s"
    assert wrong_reply("Porto", 2.5, 2, contains="Porto") == [expected]


def test_without_expectations_any_reply_will_do() -> None:
    assert judge_reply(Expectation(nothing=True), "anything", 1e9) == []
