"""From a question to stored pieces: addressed by attention, then tried one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from memagent.backends.rope_map.addressing import credited, gather
from memagent.backends.rope_map.chunk_table import Catalogue
from memagent.backends.rope_map.index import AddressIndex
from memagent.backends.rope_map.reranking import CREDIT, LEAST, gains, lifts
from memagent.backends.shared.attention.chunks import Writer
from memagent.backends.shared.attention.encoder import KeysAndValues, Reader, Row
from memagent.backends.shared.attention.pages import PageStore
from memagent.backends.shared.text import letters

_MARGIN = 3.0
"""A piece that is so many times less likely than the best one is irrelevant: e to the power of this."""


class Search:
    """Finds what a question brings to mind.

    Args:
        reread: so many of the pieces that addressing ranks best are tried; 0: addressing has the last word.
        abstain: find only what seems relevant.
    """

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        catalogue: Catalogue,
        pages: PageStore,
        index: AddressIndex,
        *,
        reread: int,
        abstain: bool,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._catalogue = catalogue
        self._pages = pages
        self._index = index
        self._reread = reread
        self._abstain = abstain

    def find(self, query: str) -> list[tuple[int, float]]:
        """Return pieces with their scores, best first: those that seem relevant, or all that drew any attention."""
        row = Row(*self._writer.question(query))
        if not self._catalogue.turns or not row.ids:
            return []
        known = self._index.addressing
        found = self._index.find(next(self._reader.ask([row], known.layers, known.depth)))
        same = self._same(query, found.pieces)
        addressed = gather(found, known.weights, self._catalogue.around, without=same)
        tried = [number for number, _ in _ranked(addressed.pieces)[: self._reread]]
        lifted = self._lifts(query, tried)
        if self._abstain and not self._relevant(addressed.above, lifted):
            return []
        gained = credited(gains(lifted), self._catalogue.around, without=same)
        pieces = addressed.pieces.keys() | gained.keys()
        ranked = _ranked(
            {number: addressed.pieces.get(number, 0.0) + gained.get(number, 0.0) for number in pieces}
        )
        if not self._abstain:
            return ranked
        return [(number, score) for number, score in ranked if score >= ranked[0][1] - _MARGIN]

    def _relevant(self, above: float, lifted: Mapping[int, float]) -> bool:
        """Tell whether anything is, given how far addressing's best is above the background and what pieces lift."""
        best = max(lifted.values(), default=LEAST)
        return best >= LEAST and above + CREDIT * (best - LEAST) >= self._index.addressing.threshold

    def _same(self, query: str, pieces: Iterable[int]) -> set[int]:
        """Return the pieces that ask the same: a question asked before is no answer to it."""
        asked = letters(query)
        return {number for number in pieces if letters(self._catalogue[number].text) == asked}

    def _lifts(self, query: str, numbers: list[int]) -> dict[int, float]:
        if not numbers:
            return {}
        pieces = {number: self._pages.get(number) for number in numbers}
        return lifts(self._reader, self._opening, pieces, Row(*self._writer.reply(query)))

    @cached_property
    def _opening(self) -> KeysAndValues:
        return next(self._reader.read([Row([], self._writer.opening)]))


def _ranked(scores: Mapping[int, float]) -> list[tuple[int, float]]:
    """Return pieces with their scores, best first; of equals the older one."""
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
