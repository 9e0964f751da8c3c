"""The chunks that the Titans memory learns and can return: turns, and parts of long turns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from memagent.backends.records import Turn
from memagent.backends.shared.turns import turn_fields, turn_from_fields
from memagent.backends.titans.write_statistics import WriteStatistics

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_MAX_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Chunk:
    """A turn, or some sentences of a long one.

    Attributes:
        turn: The turn it is from.
        text: Its part of the turn's text.
        write: Statistics of its write into the neural memory.
    """

    turn: Turn
    text: str
    write: WriteStatistics


def split_text(text: str) -> Iterator[str]:
    """Split a text into chunks of whole sentences, and a sentence that is too long between words.

    Yields:
        Texts of at most 500 characters.
    """
    chunk = ""
    for sentence in _SENTENCE_END.split(text.strip()):
        for part in _split_sentence(sentence):
            if chunk and len(chunk) + 1 + len(part) > _MAX_CHARACTERS:
                yield chunk
                chunk = part
            else:
                chunk = f"{chunk} {part}" if chunk else part
    if chunk:
        yield chunk


def _split_sentence(sentence: str) -> Iterator[str]:
    """Split a sentence between words into parts of at most 500 characters."""
    while len(sentence) > _MAX_CHARACTERS:
        end = sentence.rfind(" ", 0, _MAX_CHARACTERS)
        end = end if end > 0 else _MAX_CHARACTERS
        yield sentence[:end]
        sentence = sentence[end:].lstrip()
    if sentence:
        yield sentence


def text_with_speaker(turn: Turn, text: str) -> str:
    """Return a chunk's text as it is embedded: after the speaker's name, if the turn has one."""
    return f"{turn.speaker}: {text}" if turn.speaker else text


def save_chunks(chunks: Iterable[Chunk], path: Path) -> None:
    """Write chunks as lines of JSON.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("w", encoding="utf-8") as file:
        for chunk in chunks:
            row = {"turn": turn_fields(chunk.turn), "text": chunk.text, "write": chunk.write}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def load_chunks(path: Path) -> Iterator[Chunk]:
    """Read what `save_chunks` wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError, KeyError, TypeError: The file is damaged.
    """
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield Chunk(turn_from_fields(row["turn"]), row["text"], WriteStatistics(*row["write"]))
