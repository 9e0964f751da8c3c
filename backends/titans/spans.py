"""What the memory can point at: stretches of turns, each with its embedding."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from memagent.backends.protocol import Turn
from memagent.backends.titans.memory import Written

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Span:
    """A turn, or some sentences of a long one.

    Attributes:
        turn: where it is from.
        text: what of it.
        written: what learning it did.
    """

    turn: Turn
    text: str
    written: Written


def cut(text: str) -> Iterator[str]:
    """Cut a text into whole sentences of together at most some hundred characters; a longer sentence between words."""
    held = ""
    for sentence in _SENTENCE.split(text.strip()):
        for part in _parts(sentence):
            if held and len(held) + 1 + len(part) > _LONGEST:
                yield held
                held = part
            else:
                held = f"{held} {part}" if held else part
    if held:
        yield held


def _parts(sentence: str) -> Iterator[str]:
    while len(sentence) > _LONGEST:
        end = sentence.rfind(" ", 0, _LONGEST)
        end = end if end > 0 else _LONGEST
        yield sentence[:end]
        sentence = sentence[end:].lstrip()
    if sentence:
        yield sentence


def spoken(turn: Turn, text: str) -> str:
    """Return a span as it is embedded: with the name of who said it, where there is one."""
    return f"{turn.speaker}: {text}" if turn.speaker else text
