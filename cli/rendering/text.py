"""Recollections, turns and sessions as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.text import Text

from memagent.cli.rendering.console import Console, Table, console
from memagent.cli.rendering.output import indented, one_line

if TYPE_CHECKING:
    from memagent.agent.journal import Session
    from memagent.backends.records import Recollection, Turn


def print_recollections(recollections: Sequence[Recollection], on: Console | None = None) -> None:
    """Print recollections as a table: score, date, turn, session, speaker, text, reason."""
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
            f"{item.created_at:%Y-%m-%d}",
            ",".join(map(str, item.seqs)),
            item.session,
            item.speaker or item.role,
            _short(item.text, 240),
            item.why,
        )
    on.print(table)


def print_turns(turns: Iterable[Turn], on: Console | None = None) -> None:
    """Print turns: number, time, speaker, text, and a line for each attachment.

    Later lines of a text are indented, so that none looks like a turn or an attachment.
    """
    on = on or console()
    for turn in turns:
        place = f"{turn.seq:>6} {turn.created_at:%Y-%m-%d %H:%M} "
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
    """Print sessions, the latest last."""
    on = on or console()
    if not sessions:
        on.print("There are no sessions yet.")
        return
    table = Table()
    for name in ("session", "begun", "last turn", "turns"):
        table.add_column(name, justify="right" if name == "turns" else "left")
    for session in sessions:
        last = f"{session.last_at:%Y-%m-%d %H:%M}" if session.last_at else "-"
        table.add_row(session.name, f"{session.created_at:%Y-%m-%d %H:%M}", last, str(session.turns))
    on.print(table)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
