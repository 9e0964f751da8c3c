"""Chat models without weights, for tests of agents: everything but the language model is real."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from memagent.agent.models.chat import Message, Sampling

_DATE = re.compile(r"^Today is [^\n]*\n")


class _WordModel:
    """Counts words as tokens and streams a reply word by word."""

    window = 8192

    def count(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content.split()) + 1 for message in messages)

    def count_text(self, text: str) -> int:
        return len(text.split())

    def _words(self, text: str, sampling: Sampling) -> Iterator[str]:
        yield from re.findall(r"\S+\s*", text)[: sampling.max_tokens]


class EchoModel(_WordModel):
    """A model that answers with the last message of its prompt: the memory block and the message, without the date."""

    name = "echo"

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        """Yield the last message word by word."""
        return self._words(_DATE.sub("", messages[-1].content), sampling)


class ScriptedModel(_WordModel):
    """A model that gives prepared replies in order, and keeps each prompt in ``prompts``.

    Args:
        replies: the text of each reply, in order.
    """

    name = "scripted"

    def __init__(self, replies: Iterable[str]) -> None:
        self._replies = deque(replies)
        self.prompts: list[list[Message]] = []

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        """Yield the next prepared reply word by word."""
        self.prompts.append(list(messages))
        return self._words(self._replies.popleft(), sampling)
