"""Absolute dates for relative ones: "yesterday" in a note of 19 November means 18 November, whenever the note is read."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache

# Those of the multilingual encoder that dateparser knows. Trying all 200 takes seconds.
_LANGUAGES = ["en", "de", "es", "fr", "it", "pt", "nl", "pl", "ru", "tr", "ar", "zh", "ja", "ko", "th"]
_MAX_CHARS = 300
"""Longer texts are left as they are: dateparser takes 10 ms for a sentence, and 3 s for 500 characters of nothing but numbers."""
_MAX_WORDS = 4
"""Of one date; dateparser joins two dates with an "and" between them."""
_EXACT, _WEEKS, _MONTHS = timedelta(days=6), timedelta(days=28), timedelta(days=300)


@lru_cache(maxsize=1024)
def with_absolute_dates(text: str, moment: datetime) -> str:
    """Return a text with the absolute date behind each relative one, as exact as the distance allows.

    Args:
        text: what was said.
        moment: when, with time zone.

    Returns:
        The text, with "yesterday" as "yesterday (18 November 2026)" and "last week" as "last week (around 12 November 2026)".
    """
    if len(text) > _MAX_CHARS:
        return text
    # A duration, as in "two years old", is a date that depends on which way one prefers to look.
    future = _dates(text, moment, "future")
    place, parts = 0, []
    for phrase, date in _dates(text, moment, "past"):
        if (phrase, date) not in future or len(phrase.split()) > _MAX_WORDS:
            continue
        # dateparser also takes along the "and" before or behind a date.
        words = re.sub(r"\s+(?:and|und|y|et|e|i|и)$", "", phrase)
        at = text.find(words, place)
        distance = abs(date - moment.replace(tzinfo=None))
        if at >= 0 and distance >= timedelta(days=1):
            parts.append(f"{text[place:at]}{words} ({_date(date, distance)})")
            place = at + len(words)
    return "".join([*parts, text[place:]])


def _dates(text: str, moment: datetime, direction: str) -> list[tuple[str, datetime]]:
    """Return the relative dates of a text, each with the day it means; ``direction``, past or future, decides where both fit."""
    from dateparser.search import search_dates

    settings = {
        "RELATIVE_BASE": moment.replace(tzinfo=None),
        "PREFER_DATES_FROM": direction,
        "PARSERS": ["relative-time"],
    }
    return search_dates(text, languages=_LANGUAGES, settings=settings) or []


def _date(moment: datetime, distance: timedelta) -> str:
    """Return a day as exactly as its distance allows."""
    day = f"{moment.day} {moment:%B %Y}"
    if distance < _EXACT:
        return day
    if distance < _WEEKS:
        return f"around {day}"
    return f"around {moment:%B %Y}" if distance < _MONTHS else f"around {moment:%Y}"
