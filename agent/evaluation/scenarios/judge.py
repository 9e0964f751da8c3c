"""Whether the recollections and the reply are what a scenario expects."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC
from itertools import pairwise

from memagent.agent.evaluation.scenarios.expect import Expectation, Matcher
from memagent.agent.evaluation.scenarios.patterns import SEARCH_SECONDS, matches_anywhere
from memagent.backends.records import Recollection


def judge_recall(expect: Expectation, recollections: Sequence[Recollection], seconds: float) -> list[str]:
    """Return the failures of a recall as sentences; none if all expectations hold.

    Args:
        expect: what must hold.
        recollections: best first.
        seconds: how long the recall took.
    """
    failures = []
    for matcher in expect.recalled:
        rank = _rank(matcher, recollections)
        if rank is None:
            failures.append(f"not recalled: {_describe(matcher)}")
        elif matcher.within is not None and rank > matcher.within:
            failures.append(
                f"recalled at rank {rank}, expected within {matcher.within}: {_describe(matcher)}"
            )
    for matcher in expect.not_recalled:
        rank = _rank(matcher, recollections)
        if rank is not None and (matcher.within is None or rank <= matcher.within):
            failures.append(f"recalled at rank {rank}, but must not be: {_describe(matcher)}")
    failures += _out_of_order(expect.order, recollections)
    most = 0 if expect.nothing else expect.at_most
    if most is not None and len(recollections) > most:
        failures.append(
            f"{len(recollections)} recollections, expected {f'at most {most}' if most else 'none'}"
        )
    if expect.recall_seconds is not None and seconds > expect.recall_seconds:
        failures.append(f"the recall took {seconds:.3f} s, expected at most {expect.recall_seconds:g} s")
    return failures


def judge_reply(expect: Expectation, reply: str, seconds: float) -> list[str]:
    """Return the failures of the model's answer as sentences; none if all expectations hold.

    Args:
        expect: what must hold.
        reply: the answer.
        seconds: how long the whole answer took.
    """
    expected = expect.reply
    if expected is None:
        return []
    failures = [f"the reply lacks {word!r}" for word in expected.contains if not contains_words(reply, word)]
    if expected.any_of and not any(contains_words(reply, word) for word in expected.any_of):
        failures.append(f"the reply has none of {', '.join(map(repr, expected.any_of))}")
    failures += [
        f"the reply has {word!r}, but must not" for word in expected.lacks if contains_words(reply, word)
    ]
    if expected.matches is not None:
        failures += _pattern_failures(expected.matches, reply)
    if expect.reply_seconds is not None and seconds > expect.reply_seconds:
        failures.append(f"the answer took {seconds:.2f} s, expected at most {expect.reply_seconds:g} s")
    return failures


def _pattern_failures(pattern: str, reply: str) -> list[str]:
    """Return a failure if a pattern does not match the reply, or takes too long to search."""
    try:
        return [] if matches_anywhere(pattern, reply) else [f"the reply does not match {pattern!r}"]
    except TimeoutError:
        return [
            f"the pattern {pattern!r} took more than {SEARCH_SECONDS:g} s on the reply; write it without nested repeats"
        ]


def contains_words(text: str, words: str) -> bool:
    """Whether ``words`` stand in ``text`` as whole words, whatever the case, spacing and Unicode form."""
    pattern = r"\s+".join(re.escape(word) for word in _normal(words).split())
    return re.search(rf"(?<!\w){pattern}(?!\w)", _normal(text)) is not None


def _normal(text: str) -> str:
    """Return a text as it is compared: NFKC, small letters, straight apostrophes."""
    return unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")


def _rank(matcher: Matcher, recollections: Sequence[Recollection]) -> int | None:
    """Return the rank of the first recollection that is meant, from 1; None if there is none."""
    return next((rank for rank, item in enumerate(recollections, start=1) if _matches(matcher, item)), None)


def _matches(matcher: Matcher, item: Recollection) -> bool:
    return (
        all(contains_words(item.text, word) for word in matcher.contains)
        and matcher.session in (None, item.session)
        and matcher.role in (None, item.role)
        and matcher.speaker in (None, item.speaker)
        and matcher.on in (None, item.created_at.astimezone(UTC).date())
        and matcher.superseded in (None, item.superseded_by is not None)
    )


def _out_of_order(order: Sequence[str], recollections: Sequence[Recollection]) -> list[str]:
    """Return the failures of texts that should be recalled one after the other, best first."""
    ranks = {word: _rank(Matcher(contains=(word,)), recollections) for word in order}
    missing = [f"not recalled: {word!r}" for word, rank in ranks.items() if rank is None]
    if missing:
        return missing
    return [
        f"{after!r} stands at rank {ranks[after]}, not below {before!r} at {ranks[before]}"
        for before, after in pairwise(order)
        if (ranks[before] or 0) >= (ranks[after] or 0)
    ]


def _describe(matcher: Matcher) -> str:
    """Return a matcher in words, for a failure."""
    words = " and ".join(repr(word) for word in matcher.contains)
    provenance = [
        f"{name} {value}"
        for name in ("session", "role", "speaker", "on")
        if (value := getattr(matcher, name)) is not None
    ]
    if matcher.superseded is not None:
        provenance.append("superseded" if matcher.superseded else "not superseded")
    return f"{words} ({', '.join(provenance)})" if provenance else words
