"""What a slash command can show on a screen of its own, if the interface has one; otherwise the command prints it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memagent.agent.engine.agent import Reply


@dataclass(frozen=True)
class SessionList:
    """The user's sessions, to continue or delete one."""


@dataclass(frozen=True)
class MemoryList:
    """The installed memories, to use another one."""


@dataclass(frozen=True)
class Answer:
    """What one memory recalls for a question, and what the model replies with it.

    Attributes:
        memory: its name.
        channel: how it reaches the model.
        reply: with recollections and times.
    """

    memory: str
    channel: str
    reply: Reply


@dataclass(frozen=True)
class Comparison:
    """The answers of several memories to one question.

    Attributes:
        question: the question.
        answers: one for each memory.
    """

    question: str
    answers: tuple[Answer, ...]


View = SessionList | MemoryList | Comparison


def show_nothing(view: View) -> bool:
    """Return False: the interface has lines of text only."""
    return False
