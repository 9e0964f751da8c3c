"""The small parts a scenario is written in: names, texts, words, times, durations."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from memagent.agent.journal.records import check_name, check_text
from memagent.backends.errors import InputError

_UNITS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=30),
    "year": timedelta(days=365),
}
_DURATION = re.compile(rf"(\d{{1,5}}) +({'|'.join(_UNITS)})s?")
_YEAR_AND_MONTH = re.compile(r"\d{4}-\d\d-")
_MAX_QUOTE_CHARS = 100


def _name(value: str) -> str:
    return _checked(value, lambda: check_name("name", value))


def _text(value: str) -> str:
    return _checked(value, lambda: check_text(value))


def _checked(value: str, check: Callable[[], None]) -> str:
    """Return a value that passes a check of the journal; its InputError becomes pydantic's ValueError."""
    try:
        check()
    except InputError as error:
        raise ValueError(str(error)) from error
    return value


def shorten(text: str) -> str:
    """Return the first characters of a text, for messages: a file may hold a value of a megabyte."""
    return text if len(text) <= _MAX_QUOTE_CHARS else text[:_MAX_QUOTE_CHARS] + "..."


def _duration(value: object) -> object:
    """Read ``3 weeks``."""
    if not isinstance(value, str) or value.startswith("P"):  # ISO 8601, as pydantic itself writes it
        return value
    amount = _DURATION.fullmatch(value.strip())
    if amount is None:
        raise ValueError(
            f"expected a number and a unit ({', '.join(_UNITS)}), as in '3 weeks', not {shorten(value)!r}"
        )
    return int(amount[1]) * _UNITS[amount[2]]


def _to_utc(value: datetime) -> datetime:
    """Convert a time to UTC; one without a zone is in UTC."""
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("outside the years 1 to 9999 in UTC") from error


def as_list(value: object) -> object:
    """Return a list as it is, and any other value as a list of it."""
    return value if isinstance(value, (list, tuple)) else [value]


def _require_calendar_date(value: object) -> object:
    """Refuse a bare number: pydantic would take it for seconds since 1970."""
    if isinstance(value, str) and not _YEAR_AND_MONTH.match(value.strip()):
        raise ValueError(f"expected a date, as in '2026-03-01' or '2026-03-01T09:00', not {shorten(value)!r}")
    return value


def _require_words(value: str) -> str:
    """Refuse a text that has no words once it is split at white space, as the judge splits it."""
    if not value.split():
        raise ValueError("expected at least one character that is not white space")
    return value


Day = Annotated[date, BeforeValidator(_require_calendar_date, json_schema_input_type=date)]
Time = Annotated[
    datetime, BeforeValidator(_require_calendar_date, json_schema_input_type=str), AfterValidator(_to_utc)
]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Role = Literal["user", "assistant", "system", "tool"]
Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, AfterValidator(_text)]
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_require_words)]
Words = Annotated[
    tuple[Word, ...], Field(min_length=1), BeforeValidator(as_list, json_schema_input_type=Word | list[Word])
]
Duration = Annotated[timedelta, BeforeValidator(_duration, json_schema_input_type=str)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ScenarioModel(BaseModel):
    """Base of everything in a scenario file: unknown fields are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
