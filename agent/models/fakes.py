"""Chat models without weights: shipped, so that agents are tested with the real engine and a fake edge."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from memagent.agent.models.chat import Message, Sampling


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
    """Answers with the last message it was given, memory block included: shows what memory puts in a prompt."""

    name = "echo"

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        return self._words(messages[-1].content, sampling)


class ScriptedModel(_WordModel):
    """Gives the replies it was handed, in order, and keeps every prompt it saw in ``prompts``."""

    name = "scripted"

    def __init__(self, replies: Iterable[str]) -> None:
        self._replies = deque(replies)
        self.prompts: list[list[Message]] = []

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        self.prompts.append(list(messages))
        return self._words(self._replies.popleft(), sampling)
