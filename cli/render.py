"""How things look: recollections, turns and sessions as text for people and as fields for scripts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from memagent.agent.journal import Session
    from memagent.backends.protocol import Recollection, Turn

# Escape sequences in remembered text could move the cursor or retitle the terminal.
_PIPE_WIDTH = 200
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def console() -> Console:
    """The console for results; in a pipe it is wide enough to cut nothing short."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def plain(text: str) -> str:
    """Text that only prints: control characters other than newline and tab become visible dots."""
    return _CONTROL.sub("·", text)


def print_recollections(found: Sequence[Recollection], on: Console | None = None) -> None:
    """Print recollections as a table: score, when, where from, text, why."""
    on = on or console()
    if not found:
        on.print("Nothing comes to mind.")
        return
    table = Table(box=None, padding=(0, 1), show_edge=False)
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
            Text(plain(item.session)),
            Text(plain(item.speaker or item.role)),
            Text(_short(plain(item.text), 240)),
            Text(item.why),
        )
    on.print(table)


def print_turns(turns: Iterable[Turn], on: Console | None = None) -> None:
    """Print turns one a line: number, time, who, text."""
    on = on or console()
    for turn in turns:
        line = Text.assemble(
            (f"{turn.seq:>6} ", "dim"),
            (f"{turn.created_at:%Y-%m-%d %H:%M} ", "dim"),
            (f"{plain(turn.speaker or turn.role)}: ", "bold"),
            plain(turn.text),
        )
        on.print(line, soft_wrap=True)


def print_sessions(found: Sequence[Session], on: Console | None = None) -> None:
    """Print sessions, the latest last."""
    on = on or console()
    if not found:
        on.print("There are no sessions yet.")
        return
    table = Table(box=None, padding=(0, 2), show_edge=False)
    for name in ("session", "begun", "last turn", "turns"):
        table.add_column(name, justify="right" if name == "turns" else "left")
    for one in found:
        last = f"{one.last_at:%Y-%m-%d %H:%M}" if one.last_at else "-"
        table.add_row(Text(plain(one.name)), f"{one.created_at:%Y-%m-%d %H:%M}", last, str(one.turns))
    on.print(table)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
