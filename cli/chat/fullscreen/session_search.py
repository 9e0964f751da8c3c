"""Listing the user's sessions and finding those in which something was said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from memagent.cli.rendering.output import one_line
from memagent.cli.rendering.phrases import ago, quantity

if TYPE_CHECKING:
    from memagent.agent.journal import Journal, Session

_MAX_SESSIONS = 100
"""Sessions that a search in texts finds; then it ends."""
_BEFORE, _AFTER = 30, 90


@dataclass(frozen=True)
class SessionRow:
    """A session in the list.

    Attributes:
        session: with its title and number of turns.
        excerpt: what was said in it around the text that was searched for; empty: title or name contain it.
    """

    session: Session
    excerpt: str = ""

    @property
    def name(self) -> str:
        """The session's name."""
        return self.session.name

    def fits(self, query: str) -> bool:
        """Return whether title or name contain a text; an empty one is in all."""
        from memagent.backends.shared.text import fold

        wanted = fold(query)
        return wanted in fold(self.session.title) or wanted in fold(self.session.name)

    def prompt(self, now: datetime, *, is_current: bool) -> Text:
        """Return the lines that the list shows: title; name, age and number of turns; what was said."""
        last = ago(self.session.last_at, now) if self.session.last_at else "no turn left"
        facts = [one_line(self.session.name), last, quantity(self.session.turns, "turn")]
        lines = [
            (one_line(self.session.title) or "(without a message)", "bold"),
            ("\n" + " · ".join(["this session"] * is_current + facts), "dim"),
        ]
        if self.excerpt:
            lines.append((f"\n{one_line(self.excerpt)}", "italic"))
        return Text.assemble(*lines)


def list_sessions(journal: Journal) -> list[SessionRow]:
    """Return all sessions, the one with the latest turn first."""
    return [SessionRow(session) for session in reversed(journal.sessions())]


def search_texts(
    journal: Journal, query: str, rows: Sequence[SessionRow], is_cancelled: Callable[[], bool]
) -> Iterator[SessionRow]:
    """Yield the sessions in which a text was said, with its first place; at most 100 of them.

    Cost: reads the turns of each session up to the first one with the text.

    Args:
        journal: has the turns.
        query: the text, in any case and Unicode form.
        rows: the sessions to search in, in this order.
        is_cancelled: asked before each turn; True ends the search.
    """
    from memagent.backends.shared.text import fold

    wanted, matches = fold(query), 0
    for row in rows:
        for turn in journal.turns(session=row.name):
            if is_cancelled() or matches == _MAX_SESSIONS:
                return
            text = fold(turn.text)
            if wanted in text:
                matches += 1
                yield replace(row, excerpt=_excerpt(turn.text, text.index(wanted)))
                break


def _excerpt(text: str, place: int) -> str:
    """Return a text around a place; case folding moves places by a few characters at most in usual texts."""
    start = max(0, place - _BEFORE)
    return ("..." if start else "") + " ".join(text[start : place + _AFTER].split())
