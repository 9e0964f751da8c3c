"""End a reply at a text that the caller names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def until_stop(tokens: Iterator[str], stops: Sequence[str]) -> Iterator[str]:
    """Yield a reply up to the first of some texts.

    Args:
        tokens: the reply.
        stops: texts that end the reply; they are not part of it.
    """
    stops = [stop for stop in stops if stop]
    held_back = max(map(len, stops), default=1) - 1
    pending = ""
    for token in tokens:
        pending += token
        ends = [pending.index(stop) for stop in stops if stop in pending]
        if ends:
            pending = pending[: min(ends)]
            break
        complete = max(len(pending) - held_back, 0)
        if complete:
            yield pending[:complete]
        pending = pending[complete:]
    if pending:
        yield pending
