"""Judging the results of a search: the evidence of each turn, its probability of relevance, and what newer turns change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from memagent.backends.records import Turn
from memagent.backends.shared.linear import named_weights
from memagent.backends.shared.memory_need import memory_need
from memagent.backends.shared.multilingual import MultilingualEmbedder
from memagent.backends.shared.relevance import Evidence, probabilities, select
from memagent.backends.shared.supersession import successions
from memagent.backends.shared.text import is_question

MIN_JUDGED = 8
"""The best turns, which are judged at least: more than a prompt takes. Each takes a millisecond or two."""

Item = TypeVar("Item")

ANOTHER_EMBEDDER = "another embedder"
"""Names the weights for every embedder that has none of its own, and for memories without one."""


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
        cosine: of message and turn by the memory's embedder; None: it has none.
    """

    text: str
    order: tuple[datetime, int]
    author: tuple[str | None, bool]
    score: float
    coverage: float
    cosine: float | None = None


class Abstention(Protocol):
    """The settings of a memory that abstains.

    Attributes:
        abstain: return only what seems relevant.
        threshold: lowest probability of relevance, 0 to 1.
        margin: lowest share of the best statement's probability, 0 to 1.
    """

    @property
    def abstain(self) -> bool: ...  # noqa: D102 - see the class

    @property
    def threshold(self) -> float: ...  # noqa: D102

    @property
    def margin(self) -> float: ...  # noqa: D102


def author_of(turn: Turn) -> tuple[str | None, bool]:
    """Return who said a turn: speaker, and whether the assistant did. A named speaker is a person, whatever the role."""
    return turn.speaker, turn.role == "assistant" and turn.speaker is None


def relevant_items(
    message: str,
    ranked: Sequence[Item],
    search_hits_of: Callable[[Sequence[Item]], Sequence[SearchHit]],
    settings: Abstention,
    weights: Path,
    embedder: str = ANOTHER_EMBEDDER,
    *,
    limit: int,
) -> list[tuple[Item, float]]:
    """Return the items of a search that bear on a message, with their probabilities; of a memory that does not abstain, the best.

    Args:
        message: the message.
        ranked: what was searched, best first.
        search_hits_of: returns items as they are judged.
        settings: of the memory.
        weights: as in ``judge``.
        embedder: as in ``judge``.
        limit: most items returned.

    Returns:
        Items with the probability that they bear on the message, best first. If the memory does not abstain, only the best
        ``MIN_JUDGED`` are judged, and the others have 0.
    """
    judged = ranked[: max(limit, MIN_JUDGED) if settings.abstain else MIN_JUDGED]
    search_hits = search_hits_of(judged)
    chances = judge(message, memory_need(message), search_hits, weights, embedder)
    if settings.abstain:
        places = relevant(chances, search_hits, settings.threshold, settings.margin)
        return [(judged[place], chances[place]) for place in places[:limit]]
    unjudged = [0.0] * (len(ranked) - len(judged))
    return list(zip(ranked, chances + unjudged, strict=True))[:limit]


def judge(
    message: str,
    need: float,
    search_hits: Sequence[SearchHit],
    weights: Path,
    embedder: str = ANOTHER_EMBEDDER,
) -> list[float]:
    """Return the probability that each turn bears on a message.

    A turn that supersedes a relevant one is as relevant as that: "I started at Globex last week." answers where one works as
    well as "I work at Acme Corp." did, whatever its own words.

    Args:
        message: the message.
        need: of the message, see ``memory_need``.
        search_hits: the best turns, best first.
        weights: the file of the memory's weights, which has a set for each embedder that they were fitted for.
        embedder: the name of the memory's embedder. If the file has no weights for it, the multilingual encoder's cosines stand
            for its own.
    """
    if not search_hits:
        return []
    weight_set = embedder if embedder in named_weights(weights) else ANOTHER_EMBEDDER
    evidence = collect_evidence(message, search_hits, own_cosines=weight_set != ANOTHER_EMBEDDER)
    chances = probabilities(message, need, evidence, weights, weight_set)
    oldest_first = sorted(range(len(search_hits)), key=lambda place: search_hits[place].order)
    texts = [search_hits[place].text for place in oldest_first]
    for later, earlier in successions(texts, message):
        newer, older = oldest_first[later], oldest_first[earlier]
        if search_hits[newer].author == search_hits[older].author and not is_question(texts[later]):
            chances[newer] = max(chances[newer], chances[older])
    return chances


def relevant(
    chances: Sequence[float], search_hits: Sequence[SearchHit], threshold: float, margin: float
) -> list[int]:
    """Return the places of the turns that are relevant enough for a prompt; see ``relevance.select``."""
    return select(chances, [is_question(item.text) for item in search_hits], threshold, margin)


def collect_evidence(
    message: str, search_hits: Sequence[SearchHit], *, own_cosines: bool = True
) -> list[Evidence]:
    """Return what the relevance of turns is judged by.

    Args:
        message: the message.
        search_hits: one or more turns.
        own_cosines: use the cosines of the memory's embedder where it has one; False: those of the multilingual encoder.
    """
    vectors = MultilingualEmbedder().embed_queries([message, *(item.text for item in search_hits)])
    evidence = []
    for item, vector in zip(search_hits, vectors[1:], strict=True):
        cosine = float(vectors[0] @ vector)
        evidence.append(
            Evidence(
                cosine=item.cosine if own_cosines and item.cosine is not None else cosine,
                multilingual_cosine=cosine,
                coverage=item.coverage,
                score=item.score,
                text=item.text,
                by_assistant=item.author[1],
            )
        )
    return evidence
