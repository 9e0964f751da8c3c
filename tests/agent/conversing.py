"""What the tests of a conversation share: models that fail or go on, a backend with a model channel, and shortcuts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

from memagent.agent.engine.conversation import Conversation
from memagent.agent.engine.events import Event, Recalled, Token, TurnEnded
from memagent.agent.memory import Memory
from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.fakes import EchoModel, ScriptedModel
from memagent.backends.errors import ModelError
from memagent.backends.in_memory import InMemory
from memagent.backends.protocol import Injection, LocalModel

FACT = "My dog is called Biscuit."
QUESTION = "What is the dog called?"
ATTACHED: ContextVar[str] = ContextVar("attached", default="nothing")


class FailingModel(EchoModel):
    """Fails after the given tokens."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = tokens

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        yield from self._tokens
        raise ModelError("the model broke")


class ClosingModel(EchoModel):
    """Generates forever, and records that its stream was closed."""

    closed = False

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        try:
            while True:
                yield "word "
        finally:
            self.closed = True


class LocalScriptedModel(ScriptedModel):
    """Looks like a model in this process, which a model channel can act in."""

    digest = "0"
    tokenizer = None
    model = None


class WithChannel(InMemory):
    """Has a model channel that records when it is opened and closed."""

    log: ClassVar[list[str]] = []
    model_channel: ClassVar[bool] = True

    @contextmanager
    def attached(
        self, model: LocalModel, query: str, *, exclude: Collection[int] = ()
    ) -> Iterator[Injection]:
        self.log.append(f"attached to {query}")
        try:
            yield Injection(self.recall(query))
        finally:
            self.log.append("detached")


def send(conversation: Conversation, text: str) -> tuple[Recalled, TurnEnded]:
    events = list(conversation.send(text))
    recalled, ended = events[1], events[-1]
    assert isinstance(recalled, Recalled)
    assert isinstance(ended, TurnEnded)
    return recalled, ended


def until_token(events: Iterator[Event], count: int = 1) -> list[str]:
    """Read events until so many tokens of the reply have come."""
    tokens: list[str] = []
    for event in events:
        if isinstance(event, Token):
            tokens.append(event.text)
            if len(tokens) == count:
                break
    return tokens


def journal_of(memory: Memory) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in memory.journal.turns()]


def memory_holds(memory: Memory) -> list[str]:
    """What was handed to the backend, oldest first."""
    recollections = memory.recall("dog Biscuit", limit=99)
    return [item.text for item in sorted(recollections, key=lambda item: item.seqs)]
