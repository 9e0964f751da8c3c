"""The small parts a scenario is written in: names, texts, words, times, durations."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
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


def _name(value: str) -> str:
    return _checked(value, lambda: check_name("name", value))


def _text(value: str) -> str:
    return _checked(value, lambda: check_text(value))


def _checked(value: str, check: Callable[[], None]) -> str:
    try:
        check()
    except InputError as error:
        raise ValueError(str(error)) from error
    return value


def _duration(value: object) -> object:
    """Read ``3 weeks``."""
    if not isinstance(value, str) or value.startswith("P"):  # ISO 8601, as pydantic itself writes it
        return value
    found = _DURATION.fullmatch(value.strip())
    if found is None:
        raise ValueError(
            f"expected a number and a unit ({', '.join(_UNITS)}), as in '3 weeks', not {value!r}"
        )
    return int(found[1]) * _UNITS[found[2]]


def _zoned(value: datetime) -> datetime:
    """Take a time without a zone as UTC."""
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def listed(value: object) -> object:
    """Take one thing for a list of it."""
    return value if isinstance(value, (list, tuple)) else [value]


def _time(value: object) -> object:
    if isinstance(value, str) and value.strip().isdigit():  # pydantic would take it for seconds since 1970
        raise ValueError(f"expected a date and time, as in '2026-03-01T09:00', not {value!r}")
    return value


Time = Annotated[datetime, BeforeValidator(_time, json_schema_input_type=str), AfterValidator(_zoned)]
Role = Literal["user", "assistant", "system", "tool"]
Name = Annotated[str, BeforeValidator(_name)]
Text = Annotated[str, BeforeValidator(_text)]
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Words = Annotated[
    tuple[Word, ...], Field(min_length=1), BeforeValidator(listed, json_schema_input_type=Word | list[Word])
]
Duration = Annotated[timedelta, BeforeValidator(_duration, json_schema_input_type=str)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel):
    """Base of everything in a scenario: unknown fields are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
