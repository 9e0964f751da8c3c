"""Judging the best-ranked turns: the evidence of each, its probability of relevance, and what newer turns change."""

from __future__ import annotations

from collections.abc import Sequence

from memagent.backends.protocol import Vectors
from memagent.backends.rag.context_index import ContextIndex
from memagent.backends.rag.ranking import Ranked
from memagent.backends.rag.relevance import Evidence, probabilities
from memagent.backends.shared.multilingual import MultilingualEmbedder
from memagent.backends.shared.supersession import supersedes
from memagent.backends.shared.text import is_question
from memagent.backends.shared.words import content_words


def judge(
    message: str, need: float, ranked: Sequence[Ranked], full_text: ContextIndex, embedder: str
) -> list[float]:
    """Return the probability of relevance of each of the best turns.

    A turn that supersedes a relevant one is as relevant as that: "I started at Globex last week." answers where one works as
    well as "I work at Acme Corp." did, whatever its own words.

    Args:
        message: the message.
        need: of the message, see ``memory_need``.
        ranked: the best turns, best first.
        full_text: the words of all chunks.
        embedder: the name of the memory's embedder.
    """
    if not ranked:
        return []
    evidence, vectors = collect_evidence(message, ranked, full_text)
    chances = probabilities(message, need, evidence, embedder)
    oldest_first = sorted(range(len(ranked)), key=lambda place: max(ranked[place].seqs))
    for at, newer in enumerate(oldest_first):
        for older in oldest_first[:at]:
            if (
                ranked[newer].candidate.author == ranked[older].candidate.author
                and not is_question(evidence[newer].text)
                and supersedes(vectors[newer], vectors[older])
            ):
                chances[newer] = max(chances[newer], chances[older])
    return chances


def collect_evidence(
    message: str, ranked: Sequence[Ranked], full_text: ContextIndex
) -> tuple[list[Evidence], Vectors]:
    """Return what the relevance of turns is judged by, and their vectors of the multilingual encoder.

    Args:
        message: the message.
        ranked: one or more turns.
        full_text: the words of all chunks.

    Returns:
        The evidence of each turn, and float32 ``[turns, 512]``.
    """
    candidates = [item.candidate for item in ranked]
    coverage = full_text.coverage(content_words(message), [item.key for item in candidates])
    vectors = MultilingualEmbedder().embed_queries([message, *(item.text for item in candidates)])
    evidence = [
        Evidence(
            cosine=item.candidate.cosine,
            multilingual_cosine=float(vectors[0] @ vector),
            coverage=coverage[item.candidate.key],
            score=item.score,
            text=item.candidate.text,
            by_assistant=item.candidate.by_assistant,
        )
        for item, vector in zip(ranked, vectors[1:], strict=True)
    ]
    return evidence, vectors[1:]
