"""Comparing texts."""

from __future__ import annotations


def letters(text: str) -> str:
    """Return a text's letters and digits, case folded: what two texts share that say the same in the same words."""
    return "".join(char for char in text.casefold() if char.isalnum())
