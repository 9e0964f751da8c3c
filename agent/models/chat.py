"""The interface of chat models: what a conversation needs of a language model of any kind."""

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
    """How the tokens of a reply are sampled.

    Attributes:
        max_tokens: the longest reply, in tokens; at least 1.
        temperature: 0 to 2; 0 takes the most likely token every time, so that replies repeat.
        seed: of the random generator, for temperatures above 0.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0


class ChatModel(Protocol):
    """A model that continues a conversation."""

    name: str
    window: int
    """The context window: tokens of prompt and reply together."""

    def count(self, messages: Sequence[Message]) -> int:
        """Return the length of the prompt these messages make, in tokens."""
        ...

    def count_text(self, text: str) -> int:
        """Return the length of a bare text in tokens."""
        ...

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        """Yield the reply as chunks of text. Closing the iterator stops the generation.

        Args:
            messages: the prompt, oldest first.
            sampling: how tokens are sampled.

        Raises:
            ModelError: the generation failed.
        """
        ...
