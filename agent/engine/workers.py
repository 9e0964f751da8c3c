"""Replies and memory calls of many users, done in threads for an event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from typing import Protocol, TypeVar, cast

from memagent.agent.engine.conversation import Conversation, Settings
from memagent.agent.engine.event_channel import EventChannel
from memagent.agent.engine.events import Event
from memagent.agent.engine.fair_executor import FairExecutor
from memagent.agent.memory import Memory
from memagent.agent.memory.pool import MemoryPool
from memagent.agent.models.chat import ChatModel
from memagent.agent.models.names import PROVIDER, existing_path
from memagent.backends.errors import MemagentError, SettingError

_LOG = logging.getLogger("memagent")
Result = TypeVar("Result")

_CALL_THREADS = 32
"""Threads for calls without a reply: they mostly wait for the disk, or for another process, up to 10 seconds."""
_PROVIDER_REPLIES = 4
"""Replies at a time where a provider computes them."""


class Exchange(Protocol):
    """What answers one message: a ``Conversation``, or what has the same two methods."""

    def send(self, text: str) -> Iterator[Event]:
        """Send the message and yield the events until the reply has ended."""
        ...

    def stop(self) -> None:
        """End the reply in progress after its next token."""
        ...


Begin = Callable[[ChatModel], AbstractContextManager[Exchange]]
"""Opens, in the thread that generates the reply, what answers a message with a model."""


class Workers:
    """Threads that generate replies, and threads that call the memories, with a fair queue for each.

    Args:
        pool: the memories; ``close`` closes it.
        model: a model's name as after ``--model``, which is loaded with the first reply, or a chat model.
        settings: settings of all conversations.
        parallel: how many replies are generated at a time; None: as in ``AsyncAgents``.

    Raises:
        SettingError: ``parallel`` is not positive.
    """

    def __init__(
        self, pool: MemoryPool, model: str | ChatModel, settings: Settings, parallel: int | None = None
    ) -> None:
        if parallel is not None and parallel < 1:
            raise SettingError(f"parallel={parallel}: expected at least 1 reply at a time.")
        self._pool = pool
        self._model = model
        self._settings = settings
        name = model if isinstance(model, str) else model.name
        provided = PROVIDER.fullmatch(name) is not None and existing_path(name) is None
        default = _PROVIDER_REPLIES if provided else 1
        self._replies = FairExecutor(parallel or default, "memagent-reply")
        self._calls = FairExecutor(_CALL_THREADS, "memagent-call")

    async def use(self, user: str, function: Callable[[Memory], Result]) -> Result:
        """Call a function with the open memory of a user, in a thread. A cancelled call that has begun runs to its end.

        Args:
            user: name of the user.
            function: takes the memory, which it must not close.

        Returns:
            What the function returns.

        Raises:
            StorageError: the workers are closed; the function was not called.
            MemagentError: see ``MemoryPool.memory``, or the function's own.
        """

        def call() -> Result:
            with self._pool.memory(user) as memory:
                return function(memory)

        return await asyncio.wrap_future(self._calls.submit(user, call))

    def stream(self, user: str, text: str, session: str) -> AsyncIterator[Event]:
        """Send a message and yield the events of the turn; see ``AsyncAgent.stream`` for what ends it early.

        Args:
            user: name of the user.
            text: the message.
            session: name of the session.

        Raises:
            StorageError: the workers are closed; nothing was stored.
            MemagentError: see ``MemoryPool.memory``, ``Models.chat`` and ``Conversation.send``.
        """
        return self.converse(user, text, partial(self._conversation, user, session))

    async def converse(self, user: str, text: str, begin: Begin) -> AsyncIterator[Event]:
        """Send a message to what ``begin`` opens, when it is the user's turn, and yield the events.

        Args:
            user: in whose turn of the queue.
            text: the message.
            begin: opens what answers it.

        Raises:
            StorageError: the workers are closed; nothing was stored.
            MemagentError: see ``Models.chat``; and the errors of ``begin`` and of what it opens.
        """
        channel = EventChannel()

        def end(reply: Future[None]) -> None:
            is_abandoned = channel.is_abandoned
            channel.end()
            error = None if reply.cancelled() else reply.exception()
            if is_abandoned and error is not None:
                # What was not raised on purpose may quote the user.
                reason = error if isinstance(error, MemagentError) else type(error).__name__
                _LOG.warning("A reply to user %r that nobody reads any more failed: %s", user, reason)

        reply = self._replies.submit(user, partial(self._generate, text, begin, channel))
        reply.add_done_callback(end)
        try:
            while (event := await channel.get()) is not None:
                yield event
            reply.result()
        finally:
            channel.abandon()
            reply.cancel()

    async def close(self) -> None:
        """Refuse what waits, wait for what is in progress, and close the memories: states are stored, locks released.

        Raises:
            MemagentError: see ``MemoryPool.close``.
        """
        await asyncio.gather(self._replies.close(), self._calls.close())
        await asyncio.to_thread(self._pool.close)

    @contextmanager
    def _conversation(self, user: str, session: str, model: ChatModel) -> Iterator[Conversation]:
        """Lend the memory of a user to a conversation."""
        with self._pool.memory(user) as memory:
            yield Conversation(memory, model, session, self._settings)

    def _generate(self, text: str, begin: Begin, channel: EventChannel) -> None:
        """Generate a reply in this thread, from beginning to end: a memory inside the model is bound to its context."""
        model = self._pool.models.chat(self._model) if isinstance(self._model, str) else self._model
        with begin(model) as exchange:
            if channel.is_abandoned:
                return
            events = cast("Generator[Event, None, None]", exchange.send(text))
            with closing(events):  # stores the reply as far as it was generated
                for event in events:
                    if channel.is_abandoned:
                        return
                    if not channel.put(event):
                        exchange.stop()
