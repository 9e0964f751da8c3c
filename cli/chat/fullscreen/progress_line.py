"""How far a long loop or a download is, in one line."""

from __future__ import annotations

from rich.filesize import decimal
from rich.text import Text
from textual.widgets import Static

from memagent.cli.chat.fullscreen.background import Progressed
from memagent.cli.rendering.output import one_line

_BAR_CELLS = 24


class ProgressLine(Static):
    """A bar with its label. It disappears when all is done."""

    def __init__(self) -> None:
        super().__init__(markup=False)

    def show(self, progressed: Progressed) -> None:
        """Show how far something is."""
        total = progressed.total
        self.set_class(total is None or progressed.done < total, "-shown")
        self.update(Text(_line(progressed), no_wrap=True, overflow="ellipsis"))


def _line(progressed: Progressed) -> str:
    label, done, total = one_line(progressed.label), progressed.done, progressed.total
    amount = decimal(done) if progressed.unit == "B" else f"{done:,}"
    if not total:
        return f"{label}  {amount}"
    full = min(_BAR_CELLS, _BAR_CELLS * done // total)
    whole = decimal(total) if progressed.unit == "B" else f"{total:,}"
    return f"{label}  {'━' * full}{'╌' * (_BAR_CELLS - full)}  {amount} of {whole}, {100 * done // total} %"
