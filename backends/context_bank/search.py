"""Searching a context bank: the first score finds the best turns, their latents are decoded, and the second score orders them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memagent.backends.context_bank import ranking
from memagent.backends.context_bank.bank import ContextBank
from memagent.backends.context_bank.latents import LatentCodec
from memagent.backends.context_bank.results import RankedTurn
from memagent.backends.protocol import Vectors
from memagent.backends.shared.linear import weight_vector
from memagent.backends.shared.memory_need import repeats_question
from memagent.backends.shared.multilingual import MultilingualEmbedder


@dataclass(frozen=True)
class Shortlist:
    """The turns with the highest first scores, by seq.

    Attributes:
        rows: of the turns in the table, ascending, ``[turns]``.
        authors: who said each, or the role; empty where that was merged.
        texts: their words, of a long turn an excerpt; empty where too much was merged.
        comparison: of the question with all turns of the bank.
        features: see ``ranking.text_features``.
    """

    rows: list[int]
    authors: list[str]
    texts: list[str]
    comparison: ranking.Comparison
    features: Vectors


class BankSearch:
    """Searches a bank as it is now.

    Args:
        bank: not changed while this object is in use; not empty.
        codec: of its latents.
        candidates: returns the vectors that a question's key attends to, by their places; None: all.

    Attributes:
        table: the turns of the bank.
    """

    def __init__(
        self,
        bank: ContextBank,
        codec: LatentCodec,
        candidates: Callable[[Vectors], NDArray[np.int64]] | None = None,
    ) -> None:
        self.table = ranking.TurnTable.of(bank, codec)
        self._vectors = bank.vectors
        self._codec = codec
        self._candidates = candidates

    def compare(self, query: str) -> ranking.Comparison:
        """Compare a question with all turns. The local model reads the question."""
        return ranking.compare(self.table, self._codec.question_key(query), self._codec.word_codes(query))

    def ranked(self, query: str, exclude: Collection[int], limit: int) -> list[RankedTurn]:
        """Return the best turns, best first.

        Args:
            query: a question.
            exclude: seqs of turns that are left out.
            limit: so many turns are returned at least, if there are.
        """
        shortlist = self.shortlist(query, exclude, max(limit, ranking.SHORTLIST))
        scores = shortlist.features @ weight_vector(ranking.WEIGHTS, "text", ranking.TEXT_FEATURES)
        ranked = []
        for place in np.argsort(-scores, kind="stable").tolist():
            row = shortlist.rows[place]
            vectors = self.table.vectors_of(row)
            ranked.append(
                RankedTurn(
                    seq=int(self.table.seqs[row]),
                    score=float(scores[place]),
                    cosine=float(shortlist.comparison.cosines[row]),
                    coverage=float(shortlist.comparison.coverage[row]),
                    author=shortlist.authors[place],
                    text=shortlist.texts[place],
                    vectors=len(vectors),
                    shared=int((~self.table.whole[vectors]).sum()),
                )
            )
        return ranked

    def shortlist(
        self, query: str, exclude: Collection[int] = (), limit: int = ranking.SHORTLIST
    ) -> Shortlist:
        """Return the turns with the highest first scores, with their texts. A repeated question is left out.

        Args:
            query: a question.
            exclude: seqs of turns that are left out.
            limit: so many turns are returned at least, if there are.
        """
        comparison = self.compare(query)
        scores = comparison.features @ weight_vector(ranking.WEIGHTS, "turn", ranking.FEATURES)
        allowed = self._candidate_rows(comparison.key) & ~np.isin(self.table.seqs, list(exclude))
        best = [row for row in np.argsort(-scores, kind="stable").tolist() if allowed[row]]
        spoken: dict[int, tuple[str, str]] = {}
        for start in range(0, len(best), limit):
            rows = best[start : start + limit]
            decoded = zip(rows, self._decoded(rows, comparison.vector_coverage), strict=True)
            spoken |= {row: parts for row, parts in decoded if not repeats_question(query, parts[1])}
            if len(spoken) >= limit:
                break
        rows = sorted(spoken)
        texts = [spoken[row][1] for row in rows]
        question, *vectors = MultilingualEmbedder().embed_queries([query, *texts])
        cosines = [vector @ question if text else np.nan for text, vector in zip(texts, vectors, strict=True)]
        features = ranking.text_features(
            comparison.features[rows], np.array(cosines, np.float64), self.table.seqs[rows].tolist()
        )
        return Shortlist(rows, [spoken[row][0] for row in rows], texts, comparison, features)

    def whole_texts(self, seqs: Sequence[int]) -> list[str]:
        """Return the texts of turns; empty where something is merged."""
        own = [self.table.vectors_of(row) for row in np.searchsorted(self.table.seqs, seqs).tolist()]
        unmerged = [vectors[: len(vectors) * self.table.whole[vectors].all()] for vectors in own]
        lines = self._codec.decode([self._vectors[vectors] for vectors in unmerged])
        return [_parts(line)[1] for line in lines]

    def _decoded(self, rows: Sequence[int], coverage: NDArray[np.float64]) -> list[tuple[str, str]]:
        """Return author and excerpt of turns; the author, whom the first vector names, is empty if that was merged."""
        own = [self.table.vectors_of(row) for row in rows]
        excerpts = [self.table.excerpt(vectors, coverage) for vectors in own]
        heads = [
            vectors[:1][self.table.whole[vectors[:1]] & (vectors[0] not in excerpt)]
            for vectors, excerpt in zip(own, excerpts, strict=True)
        ]
        decoded = self._codec.decode([self._vectors[vectors] for vectors in (*excerpts, *heads)])
        lines, names = decoded[: len(rows)], decoded[len(rows) :]
        return [
            _parts(line) if vectors[0] in excerpt else (_parts(name)[0], line)
            for vectors, excerpt, line, name in zip(own, excerpts, lines, names, strict=True)
        ]

    def _candidate_rows(self, key: Vectors) -> NDArray[np.bool_]:
        """Return which turns have a vector among the candidates, ``[turns]``."""
        if self._candidates is None:
            return np.ones(len(self.table.seqs), np.bool_)
        near = np.zeros(len(self._vectors), np.float64)
        near[self._candidates(key)] = 1.0
        return self.table.highest(near) > 0


def _parts(line: str) -> tuple[str, str]:
    """Return author and text of a decoded turn, or of its beginning."""
    author, _, text = line.partition(": ")
    return author.removesuffix(":"), text
