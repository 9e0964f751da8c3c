"""The two searches of ``rag``, by embeddings and by words, joined into one list of candidate turns."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from memagent.backends.protocol import Vectors
from memagent.backends.rag.context_index import ContextIndex
from memagent.backends.rag.ranking import Candidate
from memagent.backends.rag.vectors import VectorIndex
from memagent.backends.rag.views import chunk_key, view_keys
from memagent.backends.shared.chunking import turn_seq
from memagent.backends.shared.judging import author_of
from memagent.backends.shared.words import content_words, query_words

_VIEWS_PER_CHUNK = 3
"""Vectors asked for per chunk that is wanted: several views of one chunk may be near a query."""


def find_candidates(
    query: str,
    vector: Vectors,
    full_text: ContextIndex,
    vectors: VectorIndex,
    limit: int,
    seqs: Collection[int] | None = None,
) -> list[Candidate]:
    """Search by embeddings and by words, and return every turn that one of the searches found.

    Args:
        query: the question.
        vector: its embedding, ``[dimension]``.
        full_text: the words of all chunks.
        vectors: the vectors of all views.
        limit: most chunks taken from each search.
        seqs: the turns that are searched; None: all.

    Returns:
        One candidate for each turn, in the order of their turns.
    """
    words = content_words(query) or query_words(query)
    cosines: dict[str, float] = {}
    keys = None if seqs is None else view_keys(full_text.fetch(full_text.keys(seqs)).values())
    for view_key, cosine in vectors.nearest(vector, _VIEWS_PER_CHUNK * limit, keys).items():
        if len(cosines) < limit or chunk_key(view_key) in cosines:
            cosines.setdefault(chunk_key(view_key), cosine)
    bm25 = full_text.search_weighted(words, limit, [full_text.weights, full_text.own_weights], seqs)
    floor = min(cosines.values(), default=0.0)
    cosine_ranks = _turn_ranks(cosines)
    bm25_ranks = _turn_ranks(bm25)
    best_keys = {turn_seq(key): key for key in reversed([*cosines, *bm25])}
    chunks = full_text.fetch(best_keys[seq] for seq in sorted(best_keys))
    bm25_by_turn = {turn_seq(key): scores for key, scores in reversed(bm25.items())}
    return [
        Candidate(
            key=key,
            seq=chunk.turn.seq,
            session=chunk.turn.session,
            created_at=chunk.turn.created_at,
            speaker=chunk.turn.speaker,
            by_assistant=author_of(chunk.turn)[1],
            text=chunk.text,
            cosine=cosines.get(key, floor),
            cosine_rank=cosine_ranks.get(chunk.turn.seq),
            bm25=bm25_by_turn.get(chunk.turn.seq, (0.0, 0.0))[0],
            own_bm25=bm25_by_turn.get(chunk.turn.seq, (0.0, 0.0))[1],
            bm25_rank=bm25_ranks.get(chunk.turn.seq),
        )
        for key, chunk in chunks.items()
    ]


def _turn_ranks(ranking: Mapping[str, object]) -> dict[int, int]:
    """Return the rank of each turn, from 1, in a ranking of chunks, best first."""
    seqs = dict.fromkeys(turn_seq(key) for key in ranking)
    return {seq: rank for rank, seq in enumerate(seqs, start=1)}
