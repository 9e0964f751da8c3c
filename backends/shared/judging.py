"""Judging the results of a search: the evidence of each turn, its probability of relevance, and what newer turns change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from memagent.backends.protocol import Vectors
from memagent.backends.records import Turn
from memagent.backends.shared.multilingual import MultilingualEmbedder
from memagent.backends.shared.relevance import Evidence, probabilities, select
from memagent.backends.shared.supersession import holds_codes_of, supersedes
from memagent.backends.shared.text import is_question

MIN_JUDGED = 8
"""The best turns, which are judged at least: more than a prompt takes. Each takes a millisecond or two."""


FITTED_EMBEDDERS = {"rag": "all-minilm-l6-v2+multilingual", "titans": "all-minilm-l6-v2"}
"""The embedder whose cosines a memory's weights are fitted for."""
ANOTHER_EMBEDDER = " with another embedder"
"""Follows the memory's name in the name of the weights for any other embedder."""


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A turn that a search returned.

    Attributes:
        text: what is judged.
        order: time and seq of the turn, of the latest one where several have the text.
        author: speaker, and whether the assistant said it.
        score: of the search, in nats; only differences between scores mean something.
        coverage: share of the message's content words that the turn holds, 0 to 1; idf-weighted where the memory knows how rare
            they are.
        cosine: of message and turn by the memory's embedder; None: it has none, the multilingual encoder's stands for it.
    """

    text: str
    order: tuple[datetime, int]
    author: tuple[str | None, bool]
    score: float
    coverage: float
    cosine: float | None = None


def author_of(turn: Turn) -> tuple[str | None, bool]:
    """Return who said a turn: speaker, and whether the assistant did. A named speaker is a person, whatever the role."""
    return turn.speaker, turn.role == "assistant" and turn.speaker is None


def judge(
    message: str, need: float, search_hits: Sequence[SearchHit], memory: str, embedder: str | None = None
) -> list[float]:
    """Return the probability that each turn bears on a message.

    A turn that supersedes a relevant one is as relevant as that: "I started at Globex last week." answers where one works as
    well as "I work at Acme Corp." did, whatever its own words.

    Args:
        message: the message.
        need: of the message, see ``memory_need``.
        search_hits: the best turns, best first.
        memory: the memory that searched; it has weights of its own in ``relevance.json``.
        embedder: the name of its embedder; None: it has none. For one that nothing was fitted for, there are weights with
            which the multilingual encoder's cosines stand for its own.
    """
    if not search_hits:
        return []
    is_fitted = embedder is None or embedder == FITTED_EMBEDDERS[memory]
    evidence, vectors = collect_evidence(
        message, search_hits if is_fitted else [replace(item, cosine=None) for item in search_hits]
    )
    chances = probabilities(message, need, evidence, memory if is_fitted else f"{memory}{ANOTHER_EMBEDDER}")
    oldest_first = sorted(range(len(search_hits)), key=lambda place: search_hits[place].order)
    for at, newer in enumerate(oldest_first):
        for older in oldest_first[:at]:
            if (
                search_hits[newer].author == search_hits[older].author
                and not is_question(search_hits[newer].text)
                and supersedes(vectors[newer], vectors[older])
                and holds_codes_of(search_hits[newer].text, search_hits[older].text, message)
            ):
                chances[newer] = max(chances[newer], chances[older])
    return chances


def relevant(
    chances: Sequence[float], search_hits: Sequence[SearchHit], threshold: float, margin: float
) -> list[int]:
    """Return the places of the turns that are relevant enough for a prompt; see ``relevance.select``."""
    return select(chances, [is_question(item.text) for item in search_hits], threshold, margin)


def collect_evidence(message: str, search_hits: Sequence[SearchHit]) -> tuple[list[Evidence], Vectors]:
    """Return what the relevance of turns is judged by, and their vectors of the multilingual encoder.

    Args:
        message: the message.
        search_hits: one or more turns.

    Returns:
        The evidence of each turn, and float32 ``[turns, 512]``.
    """
    vectors = MultilingualEmbedder().embed_queries([message, *(item.text for item in search_hits)])
    evidence = []
    for item, vector in zip(search_hits, vectors[1:], strict=True):
        cosine = float(vectors[0] @ vector)
        evidence.append(
            Evidence(
                cosine=cosine if item.cosine is None else item.cosine,
                multilingual_cosine=cosine,
                coverage=item.coverage,
                score=item.score,
                text=item.text,
                by_assistant=item.author[1],
            )
        )
    return evidence, vectors[1:]
