"""Search: from a question to scored chunks, by addressing and query-likelihood reranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from memagent.backends.rope_map import reranking
from memagent.backends.rope_map.addressing import ChunkEvidence, credit_neighbours, score_chunks
from memagent.backends.rope_map.chunk_table import ChunkTable
from memagent.backends.rope_map.index import AddressingIndex
from memagent.backends.shared.attention.chunks import TokenSpan, TurnTokenizer
from memagent.backends.shared.attention.encoder import AttentionEncoder, KeysAndValues
from memagent.backends.shared.attention.pages import PageStore
from memagent.backends.shared.memory_need import repeats_question


class ChunkSearch:
    """Finds the stored chunks that are relevant to a question.

    Args:
        encoder, tokenizer: of the model.
        chunks: which chunks are stored, and which are neighbours.
        pages: their keys and values.
        index: finds chunks by the attention of calibrated heads.
        rerank: how many of the best chunks are reranked; 0: none.
        abstain: return only what is relevant.
    """

    def __init__(
        self,
        encoder: AttentionEncoder,
        tokenizer: TurnTokenizer,
        chunks: ChunkTable,
        pages: PageStore,
        index: AddressingIndex,
        *,
        rerank: int,
        abstain: bool,
    ) -> None:
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._chunks = chunks
        self._pages = pages
        self._index = index
        self._rerank = rerank
        self._abstain = abstain

    def search(self, query: str) -> list[tuple[int, float]]:
        """Return chunk numbers with their scores, best first.

        Returns:
            The relevant chunks if the memory abstains, else all that receive any attention. A score 1 higher means a
            chunk e times as likely to be meant.
        """
        evidence = self.evidence(query)
        if evidence is None:
            return []
        heads = self._index.heads
        repeats = self._repeats(query, evidence.chunks)
        addressed = score_chunks(evidence, heads, self._chunks.neighbour, excluded=repeats)
        candidates = [number for number, _ in _ranked(addressed.scores)[: self._rerank]]
        pmi_by_chunk = self._pmi(query, candidates)
        if self._abstain and not self._is_relevant(addressed.lead, pmi_by_chunk):
            return []
        bonus = credit_neighbours(
            reranking.rerank_bonus(pmi_by_chunk, heads.tuning),
            self._chunks.neighbour,
            heads.tuning,
            excluded=repeats,
        )
        numbers = addressed.scores.keys() | bonus.keys()
        ranked = _ranked(
            {number: addressed.scores.get(number, 0.0) + bonus.get(number, 0.0) for number in numbers}
        )
        if not self._abstain or not ranked:
            return ranked
        threshold = ranked[0][1] - heads.tuning.margin
        return [(number, score) for number, score in ranked if score >= threshold]

    def evidence(self, query: str) -> ChunkEvidence | None:
        """Return the evidence of all heads on the chunks; None if there are no chunks, or the query has no tokens."""
        question = self._tokenizer.question(query)
        if not self._chunks.num_turns or not question.ids:
            return None
        heads = self._index.heads
        (queries,) = self._encoder.encode_queries([question], heads.query_layers, heads.num_layers)
        return self._index.search(queries)

    def _is_relevant(self, lead: float, pmi_by_chunk: Mapping[int, float]) -> bool:
        """Tell whether any chunk is relevant.

        Args:
            lead: of the best chunk over the background, see ``ChunkScores``.
            pmi_by_chunk: of the reranked chunks; empty if nothing is reranked.
        """
        heads, tuning = self._index.heads, self._index.heads.tuning
        highest = max(pmi_by_chunk.values(), default=tuning.min_pmi)
        support = tuning.pmi_relevance_weight * (highest - tuning.min_pmi)
        return highest >= tuning.min_pmi and lead + support >= heads.threshold

    def _repeats(self, query: str, numbers: Iterable[int]) -> set[int]:
        """Return the chunks that hold the same question: a question asked before does not answer itself."""
        return {number for number in numbers if repeats_question(query, self._chunks[number].text)}

    def _pmi(self, query: str, numbers: list[int]) -> dict[int, float]:
        """Return the PMI of query and chunk, by number: the model reads the question after each chunk."""
        if not numbers:
            return {}
        chunks = {number: self._pages.get(number) for number in numbers}
        return reranking.pmi(
            self._encoder, self._opening, chunks, self._tokenizer.question_after_chunk(query)
        )

    @cached_property
    def _opening(self) -> KeysAndValues:
        """What stands before every chunk, encoded once."""
        (opening,) = self._encoder.encode([TokenSpan([], self._tokenizer.opening_ids)])
        return opening


def _ranked(scores: Mapping[int, float]) -> list[tuple[int, float]]:
    """Return chunk numbers with their scores, best first; of equal ones the older first."""
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
