"""Whether what came to mind, and what was answered, is what a scenario expects."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC
from itertools import pairwise

from memagent.agent.evaluation.scenarios.expect import Expectation, Matcher
from memagent.agent.evaluation.scenarios.patterns import SECONDS, is_found
from memagent.backends.records import Recollection


def judge_recall(expect: Expectation, found: Sequence[Recollection], seconds: float) -> list[str]:
    """Return what is wrong with the recollections, best first, as sentences; none if all is well."""
    wrong = []
    for matcher in expect.recalled:
        rank = _rank(matcher, found)
        if rank is None:
            wrong.append(f"not recalled: {_described(matcher)}")
        elif matcher.within is not None and rank > matcher.within:
            wrong.append(f"recalled at rank {rank}, expected within {matcher.within}: {_described(matcher)}")
    for matcher in expect.not_recalled:
        rank = _rank(matcher, found)
        if rank is not None and (matcher.within is None or rank <= matcher.within):
            wrong.append(f"recalled at rank {rank}, but must not be: {_described(matcher)}")
    wrong += _out_of_order(expect.order, found)
    most = 0 if expect.nothing else expect.at_most
    if most is not None and len(found) > most:
        wrong.append(f"{len(found)} recollections, expected {f'at most {most}' if most else 'none'}")
    if expect.recall_seconds is not None and seconds > expect.recall_seconds:
        wrong.append(f"the recall took {seconds:.3f} s, expected at most {expect.recall_seconds:g} s")
    return wrong


def judge_reply(expect: Expectation, reply: str, seconds: float) -> list[str]:
    """Return what is wrong with the model's answer, as sentences; none if all is well."""
    wanted = expect.reply
    if wanted is None:
        return []
    wrong = [f"the reply lacks {word!r}" for word in wanted.contains if not holds(reply, word)]
    if wanted.any_of and not any(holds(reply, word) for word in wanted.any_of):
        wrong.append(f"the reply has none of {', '.join(map(repr, wanted.any_of))}")
    wrong += [f"the reply has {word!r}, but must not" for word in wanted.lacks if holds(reply, word)]
    if wanted.matches is not None:
        wrong += _unmatched(wanted.matches, reply)
    if expect.reply_seconds is not None and seconds > expect.reply_seconds:
        wrong.append(f"the answer took {seconds:.2f} s, expected at most {expect.reply_seconds:g} s")
    return wrong


def _unmatched(pattern: str, reply: str) -> list[str]:
    try:
        return [] if is_found(pattern, reply) else [f"the reply does not match {pattern!r}"]
    except TimeoutError:
        return [
            f"the pattern {pattern!r} took more than {SECONDS:g} s on the reply; write it without nested repeats"
        ]


def holds(text: str, words: str) -> bool:
    """Whether ``words`` stand in ``text`` as whole words, whatever the case, spacing and Unicode form."""
    pattern = r"\s+".join(re.escape(word) for word in _normal(words).split())
    return re.search(rf"(?<!\w){pattern}(?!\w)", _normal(text)) is not None


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")


def _rank(matcher: Matcher, found: Sequence[Recollection]) -> int | None:
    return next((rank for rank, item in enumerate(found, start=1) if _fits(matcher, item)), None)


def _fits(matcher: Matcher, item: Recollection) -> bool:
    return (
        all(holds(item.text, word) for word in matcher.contains)
        and matcher.session in (None, item.session)
        and matcher.role in (None, item.role)
        and matcher.speaker in (None, item.speaker)
        and matcher.on in (None, item.created_at.astimezone(UTC).date())
    )


def _out_of_order(order: Sequence[str], found: Sequence[Recollection]) -> list[str]:
    ranks = {word: _rank(Matcher(contains=(word,)), found) for word in order}
    missing = [f"not recalled: {word!r}" for word, rank in ranks.items() if rank is None]
    if missing:
        return missing
    return [
        f"{after!r} stands at rank {ranks[after]}, not below {before!r} at {ranks[before]}"
        for before, after in pairwise(order)
        if (ranks[before] or 0) >= (ranks[after] or 0)
    ]


def _described(matcher: Matcher) -> str:
    words = " and ".join(repr(word) for word in matcher.contains)
    rest = [
        f"{name} {value}"
        for name in ("session", "role", "speaker", "on")
        if (value := getattr(matcher, name)) is not None
    ]
    return f"{words} ({', '.join(rest)})" if rest else words
