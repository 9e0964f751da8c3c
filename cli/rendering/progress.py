"""Progress bars on standard error: shown at a terminal, silent in pipes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TypeVar

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from memagent.agent.models.hub import Report
from memagent.cli.rendering.console import Console
from memagent.cli.rendering.output import one_line

Item = TypeVar("Item")


@cache
def _console() -> Console:
    """Return one console for all bars, so that a bar within a bar is drawn below it."""
    return Console(stderr=True)


def _label() -> TextColumn:
    return TextColumn("{task.description}", markup=False)


def track(items: Iterable[Item], *, total: int | None, label: str) -> Iterable[Item]:
    """Yield items while a bar shows how many are done.

    Args:
        items: to go through.
        total: how many there are; None: unknown.
        label: of the bar.
    """
    console = _console()
    if not console.is_terminal:
        yield from items
        return
    columns = (_label(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(items, total=total, description=one_line(label))


def bytes_reporter() -> Report:
    """Return a function that shows the bytes of a download as a bar; a full bar disappears."""
    console = _console()
    bars: dict[str, Progress] = {}

    def report(done: int, total: int, label: str) -> None:
        if not console.is_terminal:
            return
        if label not in bars:
            columns = (_label(), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            bars[label] = Progress(*columns, console=console, transient=True)
            bars[label].start()
            bars[label].add_task(one_line(label), total=total)
        bars[label].update(bars[label].task_ids[0], completed=done)
        if done >= total:
            bars.pop(label).stop()

    return report
