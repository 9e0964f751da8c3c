"""What the memory can point at: stretches of turns, each with its embedding."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from memagent.backends.records import Turn
from memagent.backends.titans.write_statistics import Written

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


def save_spans(spans: Iterable[Span], file: Path) -> None:
    """Write spans as lines of JSON."""
    with file.open("w", encoding="utf-8") as lines:
        for span in spans:
            turn = asdict(span.turn) | {"created_at": span.turn.created_at.isoformat()}
            row = {"turn": turn, "text": span.text, "written": span.written}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def load_spans(file: Path) -> Iterator[Span]:
    """Read what `save_spans` wrote.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file is not there, or damaged.
    """
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            turn = row["turn"]
            turn["created_at"] = datetime.fromisoformat(turn["created_at"])
            turn["in_view"] = tuple(turn["in_view"])
            yield Span(Turn(**turn), row["text"], Written(*row["written"]))
