"""Absolute dates for relative ones."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from memagent.agent.engine.dates import with_absolute_dates

MOMENT = datetime(2026, 11, 19, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "dated"),
    [
        ("I went to the dentist yesterday.", "I went to the dentist yesterday (18 November 2026)."),
        ("Three weeks ago I quit.", "Three weeks ago (around 29 October 2026) I quit."),
        ("I started last week and go again in two days.",
         "I started last week (around 12 November 2026) and go again in two days (21 November 2026)."),
        ("I was there last month.", "I was there last month (around October 2026)."),
        ("Ich war gestern beim Zahnarzt.", "Ich war gestern (18 November 2026) beim Zahnarzt."),
        ("Ayer fui al dentista.", "Ayer (18 November 2026) fui al dentista."),
        ("Я был там вчера.", "Я был там вчера (18 November 2026)."),
    ],
)  # fmt: skip
def test_a_relative_date_is_followed_by_the_absolute_one(text: str, dated: str) -> None:
    assert with_absolute_dates(text, MOMENT) == dated


@pytest.mark.parametrize(
    "text",
    [
        "My dog is called Biscuit.",
        "My daughter is two years old.",
        "I have been here for three years.",
        "He is 5 years older.",
        "One day I will go.",
        "I may go on Sunday.",
        "Yesterday and the day before yesterday.",
        "I have two sisters and a second car.",
        "My shift starts in 5 minutes.",
        "Ich bin drei Jahre älter.",
        "yesterday " * 100,
        "",
        "\ud800",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert with_absolute_dates(text, MOMENT) == text
