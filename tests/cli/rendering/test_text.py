"""How things look: harmless text, and complete rows."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
import rich.console
import rich.table
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.panel import Panel
from rich.progress import Progress, TextColumn
from rich.text import Text

from memagent.agent.fields import recollection_fields
from memagent.agent.journal import Session
from memagent.backends.records import Attachment, Recollection, Turn
from memagent.cli.rendering.console import Console, Table
from memagent.cli.rendering.output import one_line, printable
from memagent.cli.rendering.text import excerpt, print_recollections, print_sessions, print_turns

UNSAFE = {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), *range(0x2028, 0x202F))}
UNSAFE |= {chr(code) for code in (*range(0x2066, 0x206A), *range(0xD800, 0xE000))}
WHEN = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
EVIL = "a\x1b[2Jb\x1b]0;title\x07c\rd\x9b31me\u202edrow\u2066"


def recalled(text: str, session: str = "monday", speaker: str | None = None) -> Recollection:
    return Recollection(text, 0.87654321, (3, 4), session, "user", WHEN, "It shares words.", speaker)


def user_turn(text: str, speaker: str | None = None) -> Turn:
    return Turn(7, "0" * 32, "monday", "user", text, WHEN, speaker)


def console(width: int = 200) -> tuple[Console, StringIO]:
    file = StringIO()
    return Console(file=file, width=width), file


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "·[31mred·[0m"),
        ("\x1b]0;new title\x07", "·]0;new title·"),
        ("\x9b2J", "·2J"),
        ("over\rwritten", "over·written"),
        ("gone\x08\x7f", "gone··"),
        ("NUL\0", "NUL·"),
        ("evil\u202etxt.\u2066exe\u2069", "evil·txt.·exe·"),
        ("two\u2028lines\u2029", "two·lines·"),
        ("file\udcff", "file·"),
        ("\u200fשלום\u200e \u061cسلام", "\u200fשלום\u200e \u061cسلام"),
        ("line\nand\ttab", "line\nand\ttab"),
        ("Ünïcode 東京 😀 e\u0301", "Ünïcode 東京 😀 e\u0301"),
        ("", ""),
    ],
)
def test_control_characters_become_dots(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert one_line(text) == shown.replace("\n", " ").replace("\t", " ")


@given(st.text(st.characters()))
def test_harmless_text_only_prints(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert not UNSAFE & set(shown)
    assert printable(shown) == shown
    assert not (UNSAFE | {"\n", "\t"}) & set(one_line(text))


def test_a_recollections_fields_have_their_stable_names() -> None:
    assert recollection_fields(recalled("Biscuit", speaker="Ana")) == {
        "text": "Biscuit",
        "score": 0.8765,
        "seqs": [3, 4],
        "session": "monday",
        "role": "user",
        "speaker": "Ana",
        "created_at": "2026-03-01T09:30:00+00:00",
        "why": "It shares words.",
        "regenerated": False,
        "superseded_at": None,
        "superseded_by": None,
    }


def test_recollections_are_printed_with_what_led_to_them() -> None:
    to, file = console()
    print_recollections([recalled("My dog is called Biscuit."), recalled("A cat.", "tuesday", "Ben")], on=to)
    heading, first, second = file.getvalue().splitlines()
    assert heading.split() == ["score", "when", "turn", "session", "who", "what", "why"]
    assert first.split()[:5] == ["0.88", "2026-03-01", "3,4", "monday", "user"]
    assert "My dog is called Biscuit." in first
    assert "It shares words." in first
    assert "Ben" in second


def test_no_recollections_is_said_in_words() -> None:
    to, file = console()
    print_recollections([], on=to)
    assert file.getvalue() == "Nothing relevant was found.\n"


def test_a_long_recollection_is_shortened() -> None:
    to, file = console(2000)
    print_recollections([recalled("x" * 239 + "END" * 50)], on=to)
    assert "x" * 234 + "..." in file.getvalue()
    assert "END" not in file.getvalue()


def test_a_long_recollection_is_shown_around_the_questions_words() -> None:
    to, file = console(2000)
    text = "la " * 300 + "my dog is called Biscuit " + "la " * 300
    print_recollections([recalled(text)], "What is my dog called?", on=to)
    assert "my dog is called Biscuit" in file.getvalue()
    assert file.getvalue().count("...") == 2


@pytest.mark.parametrize(
    ("text", "query"), [("short", "short"), ("x" * 500, "x"), ("ab " * 200, ""), ("", "a")]
)
def test_an_excerpt_is_never_longer_than_asked_for(text: str, query: str) -> None:
    assert len(excerpt(text, query, 40)) <= 40


def test_times_are_local_and_a_superseded_fact_says_until_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    to, file = console(200)
    print_recollections(
        [replace(recalled("I live in Porto."), superseded_at=WHEN + timedelta(days=3))], on=to
    )
    print_turns([user_turn("Hello.")], to)
    monkeypatch.undo()
    time.tzset()
    assert "2026-03-01, until 2026-03-04" in file.getvalue()
    assert "2026-03-01 18:30 user: Hello." in file.getvalue()


@pytest.mark.parametrize("text", [EVIL, "[bold]not markup[/bold]", "[/]", "[link=http://x]y[/link]", "\\["])
def test_what_was_said_is_neither_escape_sequence_nor_markup(text: str) -> None:
    to, file = console(2000)
    print_turns([user_turn(text, speaker=text)], to)
    print_recollections([recalled(text, session=text, speaker=text)], on=to)
    print_sessions([Session(text, WHEN, 2, WHEN, text)], to)
    assert file.getvalue().count(one_line(text)) == 7
    assert not UNSAFE & set(file.getvalue())


def test_turns_are_printed_one_a_line_with_number_time_and_who() -> None:
    to, file = console(40)
    print_turns([user_turn("a long text that is wider than forty columns"), user_turn("short", "Ana")], to)
    assert file.getvalue().splitlines() == [
        "     7 2026-03-01 09:30 user: a long text that is wider than forty columns",
        "     7 2026-03-01 09:30 Ana: short",
    ]


def test_a_line_of_a_turns_text_looks_like_no_turn() -> None:
    to, file = console(200)
    print_turns([user_turn("harmless\n     8 2026-03-01 09:30 user: never said")], to)
    first, second = file.getvalue().splitlines()
    assert second.startswith(" " * first.index("user:"))


def test_attachments_stand_below_their_turn_where_no_text_can() -> None:
    to, file = console(200)
    attachments = (Attachment("image/png", 1_234_567, "0" * 64), Attachment("a\n/b", 7, "0" * 64))
    print_turns([replace(user_turn("two\n+ image/png, 9 bytes"), attachments=attachments)], to)
    first, second, *labels = file.getvalue().splitlines()
    assert second.startswith(" " * first.index("user:"))
    assert [label.strip() for label in labels] == ["+ image/png, 1.2 MB", "+ a /b, 7 bytes"]
    assert {label.index("+") for label in labels} == {first.index("user:") - 2}


@pytest.mark.parametrize("name", ["monday\nfriday", "monday\u2028friday", "monday\x85friday"])
def test_a_cell_is_one_line(name: str) -> None:
    to, file = console(200)
    print_recollections([recalled(name, session=name, speaker=name)], on=to)
    print_sessions([Session(name, WHEN, 1, WHEN, name)], to)
    table = Table("name", name)
    table.add_row(name, Text(name))
    to.print(table)
    assert len(file.getvalue().splitlines()) == 6
    assert len(file.getvalue().split("\n")) == 7


@pytest.mark.parametrize("style", ["", "bold red"])
def test_a_console_prints_no_unsafe_character_whatever_it_is_handed(style: str) -> None:
    to, file = console(200)
    table = rich.table.Table(EVIL, title=EVIL, caption=EVIL)
    table.add_row(EVIL, Text(EVIL))
    for thing in (EVIL, Text(EVIL, style=style), Panel(EVIL, title=EVIL), table, rich.console.Group(EVIL)):
        to.print(thing, style=style)
    to.rule(EVIL)
    assert "drow" in file.getvalue()
    assert not UNSAFE & set(file.getvalue())


def test_a_console_takes_nothing_for_markup_or_emoji() -> None:
    to, file = console(200)
    to.print("[red]x[/] [/] :smile:")
    table = Table("[bold]", title="[/]")
    table.add_row(":smile:")
    to.print(table)
    assert file.getvalue().split() == ["[red]x[/]", "[/]", ":smile:", "[/]", "[bold]", ":smile:"]


def test_colours_and_bars_stay_at_a_terminal() -> None:
    file = StringIO()
    to = Console(file=file, force_terminal=True, color_system="standard", width=80)
    with Progress(TextColumn("{task.description}", markup=False), console=to) as bar:
        bar.add_task(f"x{EVIL}", total=1, completed=1)
    to.print(f"y{EVIL}", style="red")
    ours = re.compile(r"\x1b\[(\d+(;\d+)*m|[12]K|1A|\?25[hl])|\r")
    assert "\x1b[31m" in file.getvalue()
    assert not UNSAFE & set(ours.sub("", file.getvalue()))


def test_sessions_are_printed_with_their_turns_and_empty_ones_too() -> None:
    to, file = console()
    print_sessions([Session("monday", WHEN, 12, WHEN, "Hello."), Session("empty", WHEN, 0, None)], to)
    _, first, second = (line.split() for line in file.getvalue().splitlines())
    assert first == ["monday", "2026-03-01", "09:30", "12", "Hello."]
    assert second == ["empty", "-", "0"]


@pytest.mark.parametrize("width", [80, 120])
def test_a_session_with_a_long_title_takes_one_line(width: int) -> None:
    to, file = console(width)
    print_sessions([Session("2026-03-01-0930-abcd", WHEN, 12, WHEN, "宽 wide " * 40)], to)
    _, row = file.getvalue().splitlines()
    assert cell_len(row) <= width
    assert row.rstrip().endswith("…")


def test_no_sessions_is_said_in_words() -> None:
    to, file = console()
    print_sessions([], to)
    assert file.getvalue() == "There are no sessions yet.\n"
