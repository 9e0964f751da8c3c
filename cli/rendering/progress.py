"""Progress bars on stderr: shown to a person at a terminal, silent in pipes."""

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
    """One console for all bars, so that a bar within a bar stands below it."""
    return Console(stderr=True)


def _label() -> TextColumn:
    return TextColumn("{task.description}", markup=False)


def track(items: Iterable[Item], *, total: int | None, label: str) -> Iterable[Item]:
    """Yield items while a bar shows how many are done."""
    console = _console()
    if not console.is_terminal:
        yield from items
        return
    columns = (_label(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(items, total=total, description=one_line(label))


def bytes_reporter() -> Report:
    """Return a callback that shows a download's bytes; the bar goes when it is full."""
    console = _console()
    state: dict[str, Progress] = {}

    def report(done: int, total: int, label: str) -> None:
        if not console.is_terminal:
            return
        if label not in state:
            columns = (_label(), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            state[label] = Progress(*columns, console=console, transient=True)
            state[label].start()
            state[label].add_task(one_line(label), total=total)
        state[label].update(state[label].task_ids[0], completed=done)
        if done >= total:
            state.pop(label).stop()

    return report
