"""How a command reports to a person while it works: notices, progress of loops, bytes of downloads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from memagent.cli.rendering.output import say

if TYPE_CHECKING:
    from memagent.agent.models.hub import Report
    from memagent.backends.protocol import Progress


@dataclass(frozen=True)
class Frontend:
    """Functions that opening, fetching and long loops call.

    Attributes:
        notify: gets a sentence, such as that a stored state is rebuilt.
        progress: wraps long loops.
        report: gets the bytes of a download that have come.
    """

    notify: Callable[[str], None]
    progress: Progress
    report: Report


@cache
def standard_error() -> Frontend:
    """Return a frontend that prints notices on standard error, with progress bars at a terminal."""
    from memagent.cli.rendering.progress import bytes_reporter, track

    return Frontend(say, track, bytes_reporter())
