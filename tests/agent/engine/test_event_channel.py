"""Events from a thread to the event loop: in order, with a limit for what nobody has read."""

from __future__ import annotations

import asyncio

from memagent.agent.engine.event_channel import EventChannel
from memagent.agent.engine.events import Token

WAIT = 60


async def read(channel: EventChannel) -> list[str]:
    texts = []
    while (event := await channel.get()) is not None:
        assert isinstance(event, Token)
        texts.append(event.text)
    return texts


def test_events_come_in_order_and_wait_for_a_slow_reader() -> None:
    async def main() -> None:
        channel = EventChannel(max_unread=2, stall_seconds=WAIT)
        words = [str(number) for number in range(100)]

        def write() -> bool:
            return all(channel.put(Token(word)) for word in words)

        async def write_and_end() -> bool:
            complete = await asyncio.to_thread(write)
            channel.end()
            return complete

        texts, complete = await asyncio.gather(read(channel), write_and_end())
        assert (texts, complete) == (words, True)

    asyncio.run(asyncio.wait_for(main(), WAIT))


def test_a_reader_that_takes_nothing_stalls_the_channel_and_misses_no_event() -> None:
    async def main() -> None:
        channel = EventChannel(max_unread=2, stall_seconds=0.01)
        added = await asyncio.to_thread(lambda: [channel.put(Token(word)) for word in "abcd"])
        channel.end()
        assert added == [True, True, False, False]
        assert await read(channel) == list("abcd")

    asyncio.run(asyncio.wait_for(main(), WAIT))


def test_abandoning_wakes_the_thread_that_waits_for_room() -> None:
    async def main() -> None:
        channel = EventChannel(max_unread=1, stall_seconds=WAIT)
        channel.put(Token("a"))
        writing = asyncio.create_task(asyncio.to_thread(channel.put, Token("b")))
        await asyncio.sleep(0)
        channel.abandon()
        await writing
        assert channel.is_abandoned

    asyncio.run(asyncio.wait_for(main(), WAIT / 2))


def test_an_event_loop_that_is_closed_counts_as_abandoned() -> None:
    async def main() -> EventChannel:
        return EventChannel()

    channel = asyncio.run(main())
    channel.put(Token("a"))
    assert channel.is_abandoned
