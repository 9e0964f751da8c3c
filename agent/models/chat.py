"""What a conversation needs of a language model, whichever kind it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is drawn.

    Attributes:
        max_tokens: longest reply, in tokens.
        temperature: 0 takes the likeliest token every time, so that replies repeat.
        seed: for temperatures above 0.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0


class ChatModel(Protocol):
    """A model that continues a conversation."""

    name: str
    window: int
    """Tokens of prompt and reply together."""

    def count(self, messages: Sequence[Message]) -> int:
        """Return the length of the prompt these messages make, in tokens."""
        ...

    def count_text(self, text: str) -> int:
        """Return the length of a bare text in tokens."""
        ...

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        """Yield the reply piece by piece. Closing the iterator stops the generation."""
        ...
