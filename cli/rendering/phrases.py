"""Phrases that several commands use in their messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from memagent.cli.rendering.output import say

if TYPE_CHECKING:
    from memagent.agent.memory.forgetting import Remaining

_UNITS = (("minute", 60, 60), ("hour", 3600, 24), ("day", 86400, 14), ("week", 604800, 9))
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


def ago(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was: ``just now``, ``5 minutes ago``, ``3 days ago``; its date after eight weeks."""
    seconds = (now - moment).total_seconds()
    if seconds < 60:
        return "just now"
    for unit, size, most in _UNITS:
        if seconds < most * size:
            return f"{quantity(int(seconds // size), unit)} ago"
    return f"{moment.astimezone():%Y-%m-%d}"
