"""Turns as fields of JSON, for memories that store them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from memagent.backends.protocol import Turn

_NAMES = ("seq", "id", "session", "role", "text", "speaker")


def turn_fields(turn: Turn) -> dict[str, Any]:
    """Return what a recollection needs of a turn, as JSON can hold it: its text and provenance."""
    return {name: getattr(turn, name) for name in _NAMES} | {"created_at": turn.created_at.isoformat()}


def turn_from_fields(fields: Mapping[str, Any]) -> Turn:
    """Read what ``turn_fields`` wrote.

    Raises:
        KeyError, TypeError, ValueError: a field is missing, unknown or no time.
    """
    return Turn(**{**fields, "created_at": datetime.fromisoformat(fields["created_at"])})
