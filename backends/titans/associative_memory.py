"""The memory that recites: one matrix, taught by surprise which word follows which, told of what.

A text is stored as the words after words that it is made of. The key of a word binds two things (Plate, Holographic
reduced representations, 1995; in the multiplying form of Gayler 1998): the address ``a`` of the text, its embedding, and
the words just before,

    k_t = f(a) * s(w_{t-1}, w_{t-2}, w_{t-3})      s: random signs for these words
    f(a) = (a, ..., a, a * roll(a, 1) sqrt(d), ..., a * roll(a, r/4) sqrt(d)) / |...|

so that two keys match as their addresses do, about (3 c + c^2) / 4 with c = cos(a, a'), where the words before are the same,
and not at all otherwise. The products keep apart what is only somewhat alike, and more texts than an address has dimensions
may go on differently after the same words. The value is a random code of the word that came, and M is a linear memory in the sense of Titans (arXiv
2501.00663, equations 12 and 13): ``M_t = (1 - alpha) M_{t-1} - theta grad ||k_t M_{t-1} - v_t||^2 / 2``. theta is 1, so that
what is said once is known at once; momentum would carry a step beyond what it was to teach, and is left out.

To recite, an address is followed word by word along the best matches, with a beam, from every word that a text began with:
many begin alike, so there the matrix knows least. What comes is what was said, letter for letter, or nothing: texts that
were written over match too little (and how often a word was repeated is more than three words can tell). The matrix never
grows: beyond some tens of thousands of words, what was said long ago and never again fades first.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import shake_256
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from memagent.backends.titans.write_statistics import Written

CONTEXT = 3
_CODE = 256
_END = ""
_BEAMS = 16
_EARLY_BEAMS = 64
_LONGEST = 160
# Random codes of a thousand words match by chance up to about this.
_CHANCE = 0.1
_EARLY = 4
_ALIKE = 0.5
# A character of a script without spaces is a word; a very long word is several.
_WORD = re.compile(r"\s*[぀-ヿ㐀-鿿가-힣]|\s*\w{1,24}|\s*[^\w\s]")


class Recited(NamedTuple):
    """What came when an address was followed.

    Attributes:
        text: what it says.
        match: geometric mean over its words of how well each matched, about ``(3 c + c^2) / 4`` with the cosine c of the address
            asked for and the one it was stored under: 1 is certain, below 0.25 mostly chance.
    """

    text: str
    match: float


def words(text: str) -> list[str]:
    """Cut a text into words and signs, each with the space before it: put together they are the text again."""
    return _WORD.findall(text.strip())


class Recital:
    """A memory of fixed size for texts.

    Args:
        dimension: of the addresses.
        copies: of the address in a key, ``r``, a quarter of them multiplied. The memory has ``copies * dimension * 256`` weights.
        alpha: share that is forgotten with each text.
        seed: for signs and codes.
    """

    def __init__(self, dimension: int, copies: int, alpha: float, seed: int) -> None:
        self._copies = copies
        self._alpha = alpha
        self._seed = seed
        self._weights = torch.zeros(copies * dimension, _CODE)
        # Dictionaries without values: sets that keep their order.
        self._vocabulary: dict[str, None] = {}
        self._openers: dict[str, None] = {}
        self._known: list[str] = []
        self._codes = torch.zeros(0, _CODE)

    @property
    def bytes(self) -> int:
        """Size of the weights."""
        return self._weights.nbytes

    def write(self, address: Tensor, text: str) -> Written:
        """Learn a text.

        Args:
            address: ``[dimension]``, of length 1.
        """
        said = [*words(text), _END]
        self._vocabulary |= dict.fromkeys(said)
        self._openers[said[0]] = None
        keys = self._keys(address, [said[:place] for place in range(len(said))])
        values = torch.stack([self._code(word) for word in said])
        if self._alpha:
            self._weights *= 1 - self._alpha
        errors = values - keys @ self._weights
        # What comes after the same words twice in one text shares a key: its steps are to add up to one.
        before = [tuple(said[max(0, place - CONTEXT) : place]) for place in range(len(said))]
        often = Counter(before)
        theta = torch.tensor([1 / often[one] for one in before])
        self._weights.addmm_(keys.T, theta[:, None] * errors)
        rest = values - keys @ self._weights
        surprise, left = (float(error.square().sum(1).mean()) for error in (errors, rest))
        return Written(surprise, surprise - left)

    def recite(self, address: Tensor) -> list[Recited]:
        """Follow an address ``[dimension]`` of length 1: texts that differ, at most 16, best match first."""
        self._encode()
        beams = [_Beam((opener,), 0.0, 1.0) for opener in self._openers]
        whole: list[_Beam] = []
        while beams and len(beams[0].words) < _LONGEST:
            longer = [
                beam.then(word, match)
                for beam, row in zip(beams, self._next(address, beams), strict=True)
                for word, match in row
                if match > 0
            ]
            # Beside a text that came out whole, one that matches half as well is noise.
            least = max((beam.match for beam in whole), default=0.0) / 2
            longer = [beam for beam in longer if beam.match > max(beam.least, least)]
            longer.sort(key=lambda beam: -beam.match)
            del longer[longer[0].width if longer else 0 :]
            beams = [beam for beam in longer if beam.words[-1] != _END]
            whole += [beam for beam in longer if beam.words[-1] == _END]
        whole.sort(key=lambda beam: -beam.match)
        return [Recited("".join(beam.words), beam.match) for beam in _different(whole)]

    def _next(self, address: Tensor, beams: Sequence[_Beam]) -> Iterator[list[tuple[str, float]]]:
        """Yield the words that match best after each beam, with their matches."""
        for start in range(0, len(beams), _EARLY_BEAMS):
            some = beams[start : start + _EARLY_BEAMS]
            matches = self._keys(address, [beam.words for beam in some]) @ self._weights @ self._codes.T
            best = matches.topk(min(_BEAMS, len(self._known)), dim=1)
            for places, values in zip(best.indices.tolist(), best.values.tolist(), strict=True):
                yield [(self._known[place], value) for place, value in zip(places, values, strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        """Return what is to be saved, with `vocabulary` and `openers`."""
        return {"weights": self._weights}

    @property
    def vocabulary(self) -> Sequence[str]:
        """Every word met, in that order."""
        return list(self._vocabulary)

    @property
    def openers(self) -> Sequence[str]:
        """Every word that a text began with."""
        return list(self._openers)

    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Iterable[str], openers: Iterable[str]
    ) -> None:
        """Take back what ``tensors``, ``vocabulary`` and ``openers`` gave.

        Raises:
            KeyError, ValueError: they are of another memory.
        """
        if tensors["weights"].shape != self._weights.shape:
            raise ValueError("its weights are of another shape")
        self._weights = tensors["weights"]
        self._vocabulary, self._openers = dict.fromkeys(vocabulary), dict.fromkeys(openers)
        self._known, self._codes = [], self._codes[:0]

    def _encode(self) -> None:
        """Have the codes of all words at hand: ``[words, 256]``, in the order of the vocabulary."""
        new = list(islice(self._vocabulary, len(self._known), None))
        if new:
            self._known += new
            self._codes = torch.cat([self._codes, torch.stack([self._code(word) for word in new])])

    def _keys(self, address: Tensor, befores: Sequence[Sequence[str]]) -> Tensor:
        """``[len(befores), copies * dimension]``: the address, bound to the last of the words before."""
        size = self._copies * len(address)
        spread = self._spread(address)
        rows = []
        for before in befores:
            signs = _signs(f"{self._seed} key", size)
            for back, word in enumerate(reversed(before[-CONTEXT:]), start=1):
                signs = signs * np.roll(_signs(f"{self._seed} key {word}", size), back)
            rows.append(signs)
        bound: Tensor = spread * torch.from_numpy(np.stack(rows))
        return bound

    def _spread(self, address: Tensor) -> Tensor:
        """``[copies * dimension]``, of length 1: f of the equation above."""
        squared = self._copies // 4
        products = [address * address.roll(shift) * len(address) ** 0.5 for shift in range(1, squared + 1)]
        return normalize(torch.cat([*[address] * (self._copies - squared), *products]), dim=0)

    def _code(self, word: str) -> Tensor:
        code: Tensor = torch.from_numpy(_signs(f"{self._seed} value {word}", _CODE)) / _CODE**0.5
        return code


class _Beam(NamedTuple):
    words: tuple[str, ...]
    logs: float
    match: float

    @property
    def least(self) -> float:
        """The match below which it is not followed."""
        return _CHANCE if len(self.words) < _EARLY else 2 * _CHANCE

    @property
    def width(self) -> int:
        """How many beams as long as this are followed."""
        return _EARLY_BEAMS if len(self.words) < _EARLY else _BEAMS

    def then(self, word: str, match: float) -> _Beam:
        """Go on by one word."""
        logs = self.logs + math.log(match)
        return _Beam((*self.words, word), logs, math.exp(logs / len(self.words)))


def _different(whole: Sequence[_Beam]) -> list[_Beam]:
    """Leave out what mostly agrees, word for word, with a better match: a beam that went astray late."""
    kept: list[_Beam] = []
    for beam in whole:
        if len(kept) == _BEAMS:
            break
        if not any(_alike(beam.words, other.words) for other in kept):
            kept.append(beam)
    return kept


def _alike(one: Sequence[str], other: Sequence[str]) -> bool:
    same = sum(mine == theirs for mine, theirs in zip(one, other, strict=False))
    return same >= _ALIKE * min(len(one), len(other))


@lru_cache(maxsize=1024)
def _signs(name: str, count: int) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    """``count`` random signs that belong to a name, the same on every machine."""
    digest = np.frombuffer(shake_256(name.encode("utf-8", "replace")).digest(-(-count // 8)), np.uint8)
    return np.unpackbits(digest)[:count].astype(np.int8) * 2 - 1
