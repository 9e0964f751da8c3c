"""Hand the events of a reply from the thread that generates it to the event loop that reads them."""

from __future__ import annotations

import asyncio
import threading

from memagent.agent.engine.events import Event

MAX_UNREAD = 1024
"""Events that wait for their reader: more than most replies have tokens, so that a slow reader delays no other user."""
STALL_SECONDS = 60.0
"""A reader that takes nothing for so long while the channel is full is taken for gone."""


class EventChannel:
    """The events of one reply on their way from a thread to the running event loop.

    Args:
        max_unread: how many events wait for their reader before ``put`` waits.
        stall_seconds: how long ``put`` waits for a reader.
    """

    def __init__(self, max_unread: int = MAX_UNREAD, stall_seconds: float = STALL_SECONDS) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._room = threading.Semaphore(max_unread)
        self._stall_seconds = stall_seconds
        self._stalled = False
        self._abandoned = threading.Event()

    @property
    def is_abandoned(self) -> bool:
        """True if nobody reads the events any more."""
        return self._abandoned.is_set()

    def put(self, event: Event) -> bool:
        """Add an event; wait for room if too many are unread. The generating thread calls it.

        Args:
            event: the next event.

        Returns:
            False if the reader has stalled. The event is added nevertheless, and from then on ``put`` waits no more, so
            that the few events that end the reply can follow.
        """
        if not self._stalled:
            self._stalled = not self._room.acquire(timeout=self._stall_seconds)
        self._hand_over(event)
        return not self._stalled

    def end(self) -> None:
        """Let the reader know that no event follows. Any thread may call it."""
        self._hand_over(None)

    async def get(self) -> Event | None:
        """Return the next event, None after the last."""
        event = await self._events.get()
        self._room.release()
        return event

    def abandon(self) -> None:
        """Say that nobody reads the events any more, and wake a thread that waits for room."""
        self._abandoned.set()
        self._room.release()

    def _hand_over(self, event: Event | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the event loop is closed
            self.abandon()
