"""Turns as JSON can hold them: in stored states, exports and what scripts are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from memagent.backends.records import Attachment, Turn


def turn_fields(turn: Turn) -> dict[str, Any]:
    """Return a turn's fields in the order of ``Turn``, its time in ISO 8601; the bytes of attachments are not among them."""
    return asdict(turn) | {"created_at": turn.created_at.isoformat()}


def turn_from_fields(fields: Mapping[str, Any]) -> Turn:
    """Return the turn of ``turn_fields``.

    Raises:
        KeyError, TypeError, ValueError: they are not a turn's fields.
    """
    return Turn(
        **{
            **fields,
            "created_at": datetime.fromisoformat(fields["created_at"]),
            "in_view": tuple(fields["in_view"]),
            "recalled": tuple(fields["recalled"]),
            "attachments": tuple(Attachment(**attachment) for attachment in fields["attachments"]),
        }
    )
