"""Recollections, turns and sessions as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.filesize import decimal
from rich.text import Text

from memagent.cli.rendering.console import Console, Table, console
from memagent.cli.rendering.output import indented, one_line

_MAX_EXCERPT = 240
_OTHER_COLUMNS = len("YYYY-MM-DD HH:MM") + len("turns") + 4 * 2

if TYPE_CHECKING:
    from memagent.agent.journal import Session
    from memagent.backends.records import Recollection, Turn


def print_recollections(
    recollections: Sequence[Recollection], query: str = "", on: Console | None = None
) -> None:
    """Print recollections as a table: score, date, turn, session, speaker, text, reason.

    Args:
        recollections: best first.
        query: what they were recalled for; a long text is shown around its words.
        on: where to print; by default standard output.
    """
    on = on or console()
    if not recollections:
        on.print("Nothing relevant was found.")
        return
    table = Table(gap=1)
    for name, options in (
        ("score", {"justify": "right"}),
        ("when", {"no_wrap": True}),
        ("turn", {"justify": "right"}),
        ("session", {}),
        ("who", {}),
        ("what", {"ratio": 3}),
        ("why", {"ratio": 2, "style": "dim"}),
    ):
        table.add_column(name, **options)
    for item in recollections:
        table.add_row(
            f"{item.score:.2f}",
            _validity(item),
            ",".join(map(str, item.seqs)),
            item.session,
            item.speaker or item.role,
            excerpt(item.text, query, _MAX_EXCERPT),
            item.why,
        )
    on.print(table)


def print_turns(turns: Iterable[Turn], on: Console | None = None) -> None:
    """Print turns: number, time, speaker, text, and a line for each attachment.

    Later lines of a text are indented, so that none looks like a turn or an attachment.
    """
    on = on or console()
    for turn in turns:
        place = f"{turn.seq:>6} {turn.created_at.astimezone():%Y-%m-%d %H:%M} "
        line = Text.assemble(
            (place, "dim"),
            (f"{one_line(turn.speaker or turn.role)}: ", "bold"),
            indented(turn.text, len(place)),
        )
        on.print(line, soft_wrap=True)
        for attachment in turn.attachments:
            label = f"{one_line(attachment.media_type)}, {decimal(attachment.size)}"
            on.print(Text(f"{'+ ':>{len(place)}}{label}", "dim"), soft_wrap=True)


def print_sessions(sessions: Sequence[Session], on: Console | None = None) -> None:
    """Print sessions, the latest last. Titles are cut so that a session takes one line."""
    on = on or console()
    if not sessions:
        on.print("There are no sessions yet.")
        return
    widest = max(cell_len(one_line(session.name)) for session in sessions)
    name_width = min(max(widest, len("session")), max(20, on.width // 3))
    table = Table(gap=1)
    for name, options in (
        ("session", {"width": name_width, "overflow": "fold"}),
        ("last turn", {"no_wrap": True}),
        ("turns", {"justify": "right", "no_wrap": True}),
        ("title", {}),
    ):
        table.add_column(name, **options)
    title_width = max(12, on.width - name_width - _OTHER_COLUMNS)
    for session in sessions:
        last = f"{session.last_at.astimezone():%Y-%m-%d %H:%M}" if session.last_at else "-"
        title = Text(one_line(session.title))
        title.truncate(title_width, overflow="ellipsis")
        table.add_row(session.name, last, str(session.turns), title)
    on.print(table)


def excerpt(text: str, query: str, length: int) -> str:
    """Return a stretch of a text, at most so many characters, with as many of a query's words as one stretch can hold.

    Args:
        text: the whole text.
        query: its words are looked for.
        length: most characters; at least 7.
    """
    if len(text) <= length:
        return text
    from memagent.backends.shared.words import content_words

    lower = text.lower()
    places = sorted(place for word in content_words(query) if (place := lower.find(word)) >= 0) or [0]
    size = length - 6
    first = max(places, key=lambda start: sum(start <= place < start + size for place in places))
    inside = [place for place in places if first <= place < first + size]
    start = max(0, min((inside[0] + inside[-1] - size) // 2, len(text) - size))
    before, after = "..." if start else "", "..." if start + size < len(text) else ""
    return f"{before}{text[start : start + size]}{after}"


def _validity(item: Recollection) -> str:
    day = f"{item.created_at.astimezone():%Y-%m-%d}"
    return day if item.superseded_at is None else f"{day}, until {item.superseded_at.astimezone():%Y-%m-%d}"
