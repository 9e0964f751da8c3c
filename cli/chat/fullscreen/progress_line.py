"""How far a long loop or a download is, in one line."""

from __future__ import annotations

from rich.cells import cell_len
from rich.filesize import decimal
from rich.text import Text
from textual.widgets import Static

from memagent.cli.chat.fullscreen.background import Progressed
from memagent.cli.rendering.output import one_line

_BAR_CELLS = 24
_PADDING = 1


class ProgressLine(Static):
    """A bar with its label: of the work that began last and is not done. It disappears when all is done."""

    def __init__(self) -> None:
        super().__init__(markup=False, id="progress")
        self._unfinished: dict[str, Progressed] = {}

    def show(self, progressed: Progressed) -> None:
        """Show how far something is. What is within something else is shown until it is done."""
        self._unfinished[progressed.label] = progressed
        if progressed.total is not None and progressed.done >= progressed.total:
            del self._unfinished[progressed.label]
        self.set_class(bool(self._unfinished), "-shown")
        progressed = next(reversed(self._unfinished.values()), progressed)
        line = _line(progressed, self.size.width or self.app.size.width - 2 * _PADDING)
        self.update(Text(line, no_wrap=True, overflow="ellipsis"))

    def clear(self) -> None:
        """Disappear, whatever is unfinished: the work has ended, perhaps by an error."""
        self._unfinished.clear()
        self.remove_class("-shown")


def _line(progressed: Progressed, width: int) -> str:
    """Return label, bar and amounts; the bar is shorter where the width is small."""
    label, done, total = one_line(progressed.label), progressed.done, progressed.total
    amount = decimal(done) if progressed.unit == "B" else f"{done:,}"
    if not total:
        return f"{label}  {amount}"
    whole = decimal(total) if progressed.unit == "B" else f"{total:,}"
    amounts = f"{amount} of {whole}, {100 * done // total} %"
    cells = min(_BAR_CELLS, width - cell_len(label) - len(amounts) - 2 * len("  "))
    if cells < 1:
        return f"{100 * done // total} % of {whole}  {label}"
    full = min(cells, cells * done // total)
    return f"{label}  {'━' * full}{'╌' * (cells - full)}  {amounts}"
