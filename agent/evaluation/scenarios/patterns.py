"""Regular expressions of scenario files, compiled and searched within bounds of time and memory."""

from __future__ import annotations

import re
from math import prod
from typing import Any

MAX_PATTERN_CHARS = 1000
"""Most characters of a pattern."""
SEARCH_SECONDS = 1.0
"""Most time for one search."""
# The library expands counted repeats, at some 600 bytes for each element: (?:(?:a?){1000}){1000} takes 600 MB.
_MAX_EXPANDED_CHARS = 100_000
_COUNTED = re.compile(r"\{(\d*)(?:,(\d*))?\}")
# A pattern that calls itself takes 500 MB before the time is up.
_CALL = re.compile(r"(?<!\\)(?:\\\\)*\(\?(?:R|[+-]?\d|&|P>)")


def check_pattern(pattern: str) -> None:
    """Refuse a text that is not a regular expression, or one that takes too much memory.

    Raises:
        ValueError: with what is wrong.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(
            f"a regular expression of {len(pattern):,} characters; {MAX_PATTERN_CHARS:,} at most"
        )
    if _CALL.search(pattern):
        raise ValueError(
            "a regular expression that calls itself or one of its groups, which is not allowed here"
        )
    counts = (int((last or first or "1")[:9]) for first, last in _COUNTED.findall(pattern))
    if len(pattern) * prod(max(count, 1) for count in counts) > _MAX_EXPANDED_CHARS:
        raise ValueError("a regular expression whose counted repeats make it too large")
    try:
        _compiled(pattern)
    except (
        Exception
    ) as error:  # besides its own errors the library raises OverflowError, RecursionError, KeyError...
        raise ValueError(f"not a regular expression: {str(error) or type(error).__name__}") from error


def matches_anywhere(pattern: str, text: str) -> bool:
    """Return whether a pattern matches anywhere in a text, in any case.

    Raises:
        TimeoutError: the search took longer than ``SEARCH_SECONDS``: the pattern backtracks without end on this text.
    """
    return _compiled(pattern).search(text, timeout=SEARCH_SECONDS) is not None


def _compiled(pattern: str) -> Any:
    import regex

    return regex.compile(pattern, regex.IGNORECASE)
