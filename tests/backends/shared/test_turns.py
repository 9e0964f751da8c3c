"""Turns as fields of JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from memagent.backends.records import Turn
from memagent.backends.shared.turns import turn_fields, turn_from_fields

TURN = Turn(3, "0" * 32, "monday", "user", "ä\u2028 text", datetime(2026, 3, 1, 12, tzinfo=UTC), "Ana")


def test_a_turn_comes_back_from_json_as_it_was() -> None:
    assert turn_from_fields(json.loads(json.dumps(turn_fields(TURN)))) == TURN


@pytest.mark.parametrize("change", [{"created_at": "noon"}, {"created_at": None}, {"colour": "red"}])
def test_other_fields_are_refused(change: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        turn_from_fields(turn_fields(TURN) | change)
