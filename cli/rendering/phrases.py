"""Phrases that several commands use in their messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from memagent.cli.rendering.output import say

if TYPE_CHECKING:
    from memagent.agent.memory.forgetting import Remaining

_UNITS = (("year", 31_557_600), ("month", 2_629_800), ("day", 86_400), ("hour", 3_600), ("minute", 60))
"""Unit, its seconds, and from how many of it on the next one is used."""


def quantity(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 turn``, ``2 turns``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def and_replies(number: int) -> str:
    """Return what a message adds for the replies that are forgotten with turns; empty if there are none."""
    if not number:
        return ""
    replies = "1 reply" if number == 1 else f"{number:,} replies"
    return f" and {replies} written with it in view"


def and_forget_replies(number: int) -> str:
    """Return what a question about a correction adds for the replies that are forgotten; empty if there are none."""
    if not number:
        return ""
    replies = "the reply" if number == 1 else f"the {number:,} replies"
    return f" and forget {replies} written with it in view"


def forgot_replies(number: int) -> str:
    """Return what a message about a correction adds for the replies that were forgotten; empty if there are none."""
    if not number:
        return ""
    replies = "1 reply that was" if number == 1 else f"{number:,} replies that were"
    return f" Forgot {replies} written with it in view."


def say_discarded(names: Sequence[str]) -> None:
    """Print which stored states a forgetting has removed, if any."""
    if names:
        say(f"Removed the stored state of {', '.join(names)}; it is rebuilt without them when next used.")


def say_remaining(remaining: Sequence[Remaining], notify: Callable[[str], None] = say) -> bool:
    """Print what of a forgetting is unfinished; return whether the person has to do something about it.

    Args:
        remaining: what is unfinished.
        notify: prints a sentence.
    """
    for item in remaining:
        holder = f"The stored memory of {item.backend}" if item.backend else "The journal's file"
        command = f" Then finish it with: {item.command}" if item.command else ""
        notify(f"{holder} may still hold what was forgotten. {item.reason}{command}")
    return any(item.command for item in remaining)


def age(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was, in its largest whole unit: ``3 days``; ``a moment`` below a minute."""
    seconds = (now - moment).total_seconds()
    return next(
        (quantity(int(seconds // size), unit) for unit, size in _UNITS if seconds >= size), "a moment"
    )


def ago(moment: datetime, now: datetime) -> str:
    """Return when a moment was: ``3 days ago``, or ``just now`` below a minute."""
    return f"{age(moment, now)} ago" if (now - moment).total_seconds() >= 60 else "just now"
