"""Plain full-text search over whole turns: Okapi BM25, ranked by SQLite (Robertson and Zaragoza 2009)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field

from memagent.backends.errors import CheckpointError
from memagent.backends.protocol import Fingerprint, MemoryBackend, Resources
from memagent.backends.records import BackendStats, ConsolidationReport, Hit, Turn, WriteResult
from memagent.backends.shared.chunking import Chunk, turn_seq
from memagent.backends.shared.full_text import FullTextIndex
from memagent.backends.shared.judging import MIN_JUDGED, SearchHit, author_of, judge, relevant
from memagent.backends.shared.memory_need import memory_need
from memagent.backends.shared.store_errors import check_counts, closed_after_errors, translate_errors
from memagent.backends.shared.words import content_words, query_words

RELEVANCE = Path(__file__).with_name("relevance.json")
"""The weights by which relevance is judged."""
_FORMAT = 3
_INDEX_FILE = "turns.sqlite3"
_STORES = frozenset({"sqlite3"})
_translated = translate_errors("bm25", _STORES)


@dataclass(frozen=True)
class Bm25Config:
    """Settings of the memory ``bm25``.

    Attributes:
        abstain: return only what seems relevant; switch off for retrieval benchmarks.
        threshold: lowest probability of relevance of a hit, 0 to 1 (see backends/shared/relevance.py).
        margin: hits below this share of the best one's probability are dropped, 0 to 1.
    """

    abstain: bool = True
    threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.14
    margin: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.1


class Bm25(MemoryBackend):
    """Ranks past turns by BM25 over their words, without a model.

    Remembering costs one indexed insert a turn. Recalling grows with the number of turns that share a word with the
    query, stop words included. Forgetting rewrites the file.
    """

    name: ClassVar[str] = "bm25"
    Config: ClassVar[type[Bm25Config]] = Bm25Config
    exact_forget: ClassVar[bool] = True
    consolidates: ClassVar[bool] = True
    seconds_per_turn = 0.008

    def __init__(self, config: Bm25Config, resources: Resources) -> None:
        self.config = config
        self._file = resources.workspace / _INDEX_FILE
        self._index = FullTextIndex(self._file)

    @classmethod
    def fingerprint(cls, config: Bm25Config, resources: Resources) -> Fingerprint:
        """Return the format of the index: no model and no setting takes part in it."""
        return {"format": _FORMAT}

    @_translated
    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        """Add the texts of turns to the full-text index; speakers and dates are not searched."""
        known = self._index.known([turn.seq for turn in turns])
        self._index.add([Chunk(turn, 0, turn.text) for turn in turns if turn.seq not in known])
        return [WriteResult(turn.seq, stored=turn.seq not in known) for turn in turns]

    @_translated
    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        """Return the turns with the highest BM25 scores that bear on a message.

        Returns:
            Each hit's score is the sum of its words' BM25 weights: 0 or more, without an upper bound.
        """
        return self._recall(query, limit)

    @_translated
    def recall_among(self, query: str, seqs: Collection[int], *, limit: int = 5) -> list[Hit]:
        """Search these turns alone; see ``recall``."""
        return self._recall(query, limit, seqs)

    def _recall(self, query: str, limit: int, seqs: Collection[int] | None = None) -> list[Hit]:
        num_hits = max(limit, MIN_JUDGED) if self.config.abstain else limit
        scores = self._index.search(query_words(query), num_hits, seqs)
        coverage = self._index.coverage(content_words(query), list(scores))
        hits = [
            Hit(
                (turn_seq(key),),
                score,
                why=f"BM25 score {score:.2f}; the turn holds {coverage[key]:.0%} of the question's words.",
            )
            for key, score in scores.items()
        ]
        if not self.config.abstain:
            return hits
        search_hits = self._search_hits(scores, coverage)
        chances = judge(query, memory_need(query), search_hits, RELEVANCE)
        return [
            hits[place] for place in relevant(chances, search_hits, self.config.threshold, self.config.margin)
        ][:limit]

    def _search_hits(self, scores: Mapping[str, float], coverage: Mapping[str, float]) -> list[SearchHit]:
        """Return turns as their relevance is judged, from their keys' BM25 scores and coverage."""
        chunks = self._index.fetch(scores)
        return [
            SearchHit(
                chunks[key].text,
                (chunks[key].turn.created_at, turn_seq(key)),
                author_of(chunks[key].turn),
                score,
                coverage[key],
            )
            for key, score in scores.items()
        ]

    @_translated
    def forget(self, seqs: Collection[int], turns: Sequence[Turn] = ()) -> bool:
        """Remove turns from the index and rewrite its file, in time proportional to the size of the index."""
        known = self._index.known(seqs)
        if known:
            self._index.forget(known)
        return True

    @_translated
    def consolidate(self) -> ConsolidationReport:
        """Rewrite the index compactly; what can be recalled stays the same."""
        turns = self._index.count().turns
        self._index.compact()
        return ConsolidationReport(turns, turns, "Rewrote the full-text index compactly.")

    @_translated
    def stats(self) -> BackendStats:
        """Return the number of turns and the size of the index; nothing is held in memory."""
        return BackendStats(
            items=self._index.count().turns,
            tokens=0,
            bytes_on_disk=self._file.stat().st_size,
            bytes_in_memory=0,
        )

    @_translated
    def save(self, directory: Path) -> None:
        """Write a copy of the index, and the counts that ``load`` compares."""
        self._index.copy_to(directory / _INDEX_FILE)
        (directory / "state.json").write_text(json.dumps(self._counts()))

    @classmethod
    def load(cls, directory: Path, config: Bm25Config, resources: Resources) -> Self:
        """Copy a stored index to the workspace and compare what it holds with the counts stored beside it.

        Raises:
            CheckpointError: a file is missing or damaged, or the counts differ.
        """
        from shutil import copyfile

        try:
            expected = json.loads((directory / "state.json").read_text())
            copyfile(directory / _INDEX_FILE, resources.workspace / _INDEX_FILE)
        except (FileNotFoundError, ValueError) as error:
            raise CheckpointError(f"its files cannot be read ({error})") from error
        backend = cls(config, resources)
        with closed_after_errors(backend, _STORES):
            check_counts(backend._counts(), expected)
        return backend

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def _counts(self) -> dict[str, int]:
        """Return what a stored state holds, to be compared when it is loaded."""
        counts = self._index.count()
        return {"turns": counts.turns, "searchable": counts.searchable}
