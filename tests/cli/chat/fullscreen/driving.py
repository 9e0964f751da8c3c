"""Driving the full-screen chat without a terminal: open it over a memory, press keys, wait for what they cause."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from memagent.agent.engine.conversation import Conversation
from memagent.agent.memory import Memory
from memagent.agent.models.chat import ChatModel, Message, Sampling
from memagent.agent.models.fakes import EchoModel
from memagent.cli.chat.chat import Chat, ChatOptions
from memagent.cli.chat.fullscreen.app import ChatApp
from memagent.cli.chat.fullscreen.conversation_view import ModelReply, Notice, UserMessage
from memagent.cli.chat.fullscreen.message_input import MessageInput
from memagent.cli.rendering.frontend import Frontend

SECONDS = 20.0
"""How long a condition is waited for; machines may be busy."""


class StepModel(EchoModel):
    """A model that gives a prepared reply word by word, each after ``step``.

    Args:
        words: the reply.
    """

    name = "step"

    def __init__(self, *words: str) -> None:
        self._steps = threading.Semaphore(0)
        self._reply = words

    def step(self, count: int = 1) -> None:
        """Let so many more words come."""
        self._steps.release(count)

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        """Yield the reply."""
        for word in self._reply:
            self._steps.acquire()
            yield word


class Screen:
    """The chat that a test drives.

    Args:
        pilot: Textual's.
        app: the chat.
    """

    def __init__(self, pilot: Pilot[None], app: ChatApp) -> None:
        self.pilot = pilot
        self.app = app

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, [text[:100] for text in self.texts()]
            await self.pilot.pause(0.01)

    async def type(self, text: str, *keys: str) -> None:
        """Write a text into the field that has the focus, then press keys."""
        await self.pilot.press(*text, *keys)

    async def send(self, text: str) -> None:
        """Write and send a message or a command, and wait for its end."""
        await self.type(text, "enter")
        await self.until_idle()

    async def until_idle(self) -> None:
        """Wait until no job runs and the screen shows all that the last one reported."""
        pane = self.app.pane
        await self.until(lambda: pane.chat is not None and not pane.is_busy)
        await self.pilot.pause()

    def texts(self) -> list[str]:
        """Return what the conversation shows, oldest first."""
        return [
            widget.text
            for widget in self.app.query("ConversationView > *")
            if isinstance(widget, UserMessage | ModelReply | Notice)
        ]

    @property
    def draft(self) -> str:
        """The message that is being written."""
        return self.app.query_one(MessageInput).text


@asynccontextmanager
async def screen(
    memory: Memory,
    model: ChatModel | None = None,
    *,
    size: tuple[int, int] = (120, 30),
    gate: threading.Event | None = None,
) -> AsyncIterator[Screen]:
    """Open the chat over a memory.

    Args:
        memory: in use; the caller closes it.
        model: answers; by default, it echoes.
        size: columns and rows.
        gate: the chat is opened once it is set, and not waited for; None: it is opened at once.
    """

    def open_chat(frontend: Frontend) -> Chat:
        if gate is not None:
            gate.wait(SECONDS)
        options = ChatOptions(user=memory.user, backend=memory.name, model="echo")
        return Chat(Conversation(memory, model or EchoModel(), "monday"), options)

    app = ChatApp(open_chat)
    async with app.run_test(size=size) as pilot:
        shown = Screen(pilot, app)
        if gate is None:
            await shown.until_idle()
        yield shown
        app.leave()
    if app.failure is not None:
        raise app.failure


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test that drives the screen."""
    asyncio.run(main())
