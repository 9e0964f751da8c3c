"""How things look: recollections, turns and sessions as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from memagent.cli.rendering.console import Console, Table, console
from memagent.cli.rendering.output import indented, one_line

if TYPE_CHECKING:
    from memagent.agent.journal import Session
    from memagent.backends.records import Recollection, Turn


def print_recollections(found: Sequence[Recollection], on: Console | None = None) -> None:
    """Print recollections as a table: score, when, where from, text, why."""
    on = on or console()
    if not found:
        on.print("Nothing comes to mind.")
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
    for item in found:
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
    """Print turns: number, time, who, text. The further lines of a text stand below its first, so none looks like a turn."""
    on = on or console()
    for turn in turns:
        place = f"{turn.seq:>6} {turn.created_at:%Y-%m-%d %H:%M} "
        line = Text.assemble(
            (place, "dim"),
            (f"{one_line(turn.speaker or turn.role)}: ", "bold"),
            indented(turn.text, len(place)),
        )
        on.print(line, soft_wrap=True)


def print_sessions(found: Sequence[Session], on: Console | None = None) -> None:
    """Print sessions, the latest last."""
    on = on or console()
    if not found:
        on.print("There are no sessions yet.")
        return
    table = Table()
    for name in ("session", "begun", "last turn", "turns"):
        table.add_column(name, justify="right" if name == "turns" else "left")
    for one in found:
        last = f"{one.last_at:%Y-%m-%d %H:%M}" if one.last_at else "-"
        table.add_row(one.name, f"{one.created_at:%Y-%m-%d %H:%M}", last, str(one.turns))
    on.print(table)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
