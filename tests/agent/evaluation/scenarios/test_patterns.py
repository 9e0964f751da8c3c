"""Regular expressions of scenario files: refused when odd, given up when slow."""

from __future__ import annotations

import time

import pytest

from memagent.agent.evaluation.scenarios.expect import Expectation
from memagent.agent.evaluation.scenarios.judge import judge_reply
from memagent.agent.evaluation.scenarios.patterns import MAX_PATTERN_CHARS, check_pattern, matches_anywhere

A_HANG = 60.0
"""Seconds: far more than is needed on a busy machine, far less than these patterns take without a limit."""


def expected(pattern: str) -> Expectation:
    return Expectation.model_validate({"reply": {"matches": pattern}})


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("porto", "I moved to Porto.", True),
        (r"\b\d{4}-\d\d\b", "in 2026-03", True),
        (r"^\d+$", "12 dogs", False),
        ("stra(ß|ss)e", "STRASSE", True),
        (r"(?s)a.b", "a\nb", True),
        (r"x{0,200}y", "xxy", True),
    ],
)
def test_a_pattern_is_found_anywhere_in_any_case(pattern: str, text: str, found: bool) -> None:
    check_pattern(pattern)
    assert matches_anywhere(pattern, text) is found


@pytest.mark.parametrize("pattern", [r"((.)|(..)|(...))*z", r"(?:.|.){3,}z", r"(?:(.)|(..)|.)*z(.)*"])
def test_a_pattern_that_backtracks_without_end_is_a_failure_that_says_so(pattern: str) -> None:
    reply = "z1b c " + "the quick brown fox " * 60
    began = time.monotonic()
    failures = judge_reply(expected(pattern), reply, 0.0)
    assert time.monotonic() - began < A_HANG
    assert failures == [
        f"the pattern {pattern!r} took more than 1 s on the reply; write it without nested repeats"
    ]


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "[z-a]",
        "*",
        "a{99999999999}",
        "(" * 400 + ")" * 400,
        "(?V1)" + "[" * 300 + "a" + "]" * 300,
        "\\",
        "(?P<",
        "\\8",
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="a regular expression"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["(?R)", "a(?R)?b", r"\\(?0)", "((?1)|a)*", "(?P<n>a(?&n)?)", "(?P<n>a(?P>n)?)", "(a)(?-1)"]
)
def test_a_pattern_that_calls_itself_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="calls itself"):
        check_pattern(pattern)


@pytest.mark.parametrize("pattern", [r"\(?R", r"\(?1\)?", "(?:a)(?=b)(?P<n>c)(?i:d)"])
def test_a_bracket_that_may_be_missing_is_no_call(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["(?:(?:a?){1000}){1000}", "(?:(?:x{0}){99999999}){99999999}", "(){4294967294}", "a" * 990 + "{200}"],
)
def test_repeats_that_would_take_gigabytes_are_refused(pattern: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match="counted repeats"):
        check_pattern(pattern)
    assert time.monotonic() - began < A_HANG


def test_a_pattern_of_more_than_a_thousand_characters_is_refused() -> None:
    check_pattern("a" * MAX_PATTERN_CHARS)
    with pytest.raises(ValueError, match="1,001 characters; 1,000 at most"):
        check_pattern("a" * (MAX_PATTERN_CHARS + 1))
