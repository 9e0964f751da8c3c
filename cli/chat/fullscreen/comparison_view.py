"""The answers of several memories to one question, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Markdown, Static

from memagent.cli.rendering.output import one_line, printable

if TYPE_CHECKING:
    from memagent.backends.records import Recollection
    from memagent.cli.chat.views import Answer, Comparison

_SHOWN_RECOLLECTIONS = 5


class ComparisonView(Horizontal):
    """A column for each memory: the reply with it, what it recalled, and times. Below each other where it is narrow.

    Args:
        comparison: the answers.
    """

    SCOPED_CSS = False  # it depends on the width of the screen
    DEFAULT_CSS = """
    ComparisonView { height: auto; margin: 1 0 0 0; }
    ComparisonView .answer { width: 1fr; height: auto; padding: 0 1; border-left: thick $secondary; }
    ComparisonView Static, ComparisonView Markdown { height: auto; }
    ComparisonView Markdown { margin: 0; padding: 0; }
    ComparisonView .times { color: $text-muted; }
    .narrow ComparisonView { layout: vertical; }
    .narrow ComparisonView .answer { width: 100%; margin: 0 0 1 0; }
    """

    def __init__(self, comparison: Comparison) -> None:
        super().__init__()
        self.comparison = comparison

    def compose(self) -> ComposeResult:
        """Yield the columns."""
        for answer in self.comparison.answers:
            with Vertical(classes="answer"):
                yield Static(Text(one_line(f"{answer.memory} ({answer.channel})"), "bold"), markup=False)
                yield Markdown(printable(answer.reply.text), open_links=False)
                yield Static(_recollections(answer), markup=False)
                yield Static(_times(answer), markup=False, classes="times")


def _recollections(answer: Answer) -> Text:
    """Return a line for each recollection, best first."""
    items = answer.reply.recollections
    if not items:
        return Text("Nothing was recalled.", "italic")
    lines = [_line(item) for item in items[:_SHOWN_RECOLLECTIONS]]
    if len(items) > _SHOWN_RECOLLECTIONS:
        lines.append(Text(f"and {len(items) - _SHOWN_RECOLLECTIONS} more", "dim"))
    return Text("\n").join(lines)


def _line(item: Recollection) -> Text:
    until = " (superseded)" if item.superseded_at is not None else ""
    date = f"{item.created_at.astimezone():%Y-%m-%d}{until}"
    return Text.assemble((f"{item.score:.2f} ", "bold"), f"{one_line(item.text)} ", (date, "dim"))


def _times(answer: Answer) -> str:
    seconds = answer.reply.seconds
    return f"recall {seconds.recall * 1000:.0f} ms, reply {seconds.total:.1f} s"
