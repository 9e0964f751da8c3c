"""Beam decoding: reading texts out of an associative memory, word by word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from memagent.backends.titans.associative_memory import END_OF_TEXT, AssociativeMemory

_MAX_WORDS = 160
_BEAM_WIDTH = 16
_EARLY_BEAM_WIDTH = 64
_EARLY_WORDS = 4
# Random codes of a thousand words have inner products up to about this.
_CHANCE_SCORE = 0.1
_MAX_SHARED_WORDS = 0.5


class DecodedText(NamedTuple):
    """A text that an associative memory gives back.

    Attributes:
        text: The text, as it was written.
        score: Geometric mean of its words' scores, about ``(3 c + c^2) / 4`` with the cosine c of the query and the text's
            embedding: 1 is certain, below 0.25 mostly chance.
    """

    text: str
    score: float


def decode(memory: AssociativeMemory, query: Tensor) -> list[DecodedText]:
    """Decode the texts whose embeddings are similar to a query, by beam search.

    The search begins with every first word, and keeps 64 beams for the first four words and 16 from there on: many texts
    begin with the same words, so scores tell least there. A text that later writes have overwritten scores too low to come out.
    Repetitions of more than three words may come out shorter or longer than they were written.

    Args:
        memory: The memory to read; it does not change.
        query: ``[dimension]``, of length 1.

    Returns:
        At most 16 texts, best score first. Of texts that share half of their words or more at the same places only the best
        is returned.
    """
    beams = [_Beam((word,), 0.0, 1.0) for word in memory.first_words]
    complete: list[_Beam] = []
    while beams and len(beams[0].words) < _MAX_WORDS:
        next_words = memory.next_words(query, [beam.words for beam in beams], _BEAM_WIDTH)
        extended = [
            beam.extend(word, score)
            for beam, candidates in zip(beams, next_words, strict=True)
            for word, score in candidates
            if score > 0
        ]
        # Next to a complete text, a text of half its score is noise.
        min_score = max((beam.score for beam in complete), default=0.0) / 2
        extended = [beam for beam in extended if beam.score > max(beam.min_score, min_score)]
        extended.sort(key=lambda beam: -beam.score)
        del extended[extended[0].width if extended else 0 :]
        beams = [beam for beam in extended if beam.words[-1] != END_OF_TEXT]
        complete += [beam for beam in extended if beam.words[-1] == END_OF_TEXT]
    complete.sort(key=lambda beam: -beam.score)
    return [DecodedText("".join(beam.words), beam.score) for beam in _distinct(complete)]


class _Beam(NamedTuple):
    """A text that the search has begun, as its words."""

    words: tuple[str, ...]
    log_score: float
    """The sum of the logarithms of its words' scores; the first word has none."""
    score: float

    @property
    def min_score(self) -> float:
        """The score below which the search drops it."""
        return _CHANCE_SCORE if len(self.words) < _EARLY_WORDS else 2 * _CHANCE_SCORE

    @property
    def width(self) -> int:
        """The number of beams of its length that the search keeps."""
        return _EARLY_BEAM_WIDTH if len(self.words) < _EARLY_WORDS else _BEAM_WIDTH

    def extend(self, word: str, score: float) -> _Beam:
        """Return the beam with one word more; its score is the geometric mean of its words' scores."""
        log_score = self.log_score + math.log(score)
        return _Beam((*self.words, word), log_score, math.exp(log_score / len(self.words)))


def _distinct(beams: Sequence[_Beam]) -> list[_Beam]:
    """Return the beams that do not mostly repeat a better one: these left its path late."""
    distinct: list[_Beam] = []
    for beam in beams:
        if len(distinct) == _BEAM_WIDTH:
            break
        if not any(_similar(beam.words, other.words) for other in distinct):
            distinct.append(beam)
    return distinct


def _similar(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return whether two texts share half of their words or more at the same places."""
    shared = sum(a == b for a, b in zip(first, second, strict=False))
    return shared >= _MAX_SHARED_WORDS * min(len(first), len(second))
