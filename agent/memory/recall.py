"""One recall through all backends of a memory: their hits fused, with provenance, repetitions merged, changes marked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from memagent.agent.journal import JournalReader
from memagent.agent.journal.rows import LARGEST_SEQ
from memagent.agent.memory.follower import Follower
from memagent.agent.memory.fusion import fuse_hits
from memagent.agent.memory.provenance import with_provenance
from memagent.agent.memory.supersession import mark_superseded
from memagent.backends import registry
from memagent.backends.protocol import MemoryBackend
from memagent.backends.records import Hit, Recollection, Turn
from memagent.backends.shared.chunking import split_turn
from memagent.backends.shared.overview import asks_for_overview
from memagent.backends.shared.text import is_question, normalize
from memagent.backends.shared.words import content_words

_OVERVIEW_TURNS = 200
"""The latest turns, among which an overview chooses."""
_GROWTH = 4
"""If repetitions leave too few recollections, the backends are asked again for this many times as many hits."""
_MOST_ROUNDS = 3


def recall(
    journal: JournalReader,
    followers: Sequence[Follower],
    query: str,
    limit: int,
    among: Collection[int] | None = None,
) -> list[Recollection]:
    """Return what the backends recall for a query, best first.

    What a speaker says several times is one recollection, with all its turns. A message that asks for all that is known gets
    the latest statements of the user instead: no search can answer it.

    Cost: one recall of each backend; up to two more if repetitions fill the hits.

    Args:
        journal: the user's journal.
        followers: the backends.
        query: a message or a question, not blank.
        limit: most recollections returned.
        among: seqs of the turns that are searched; None: all.
    """
    if (
        among is None
        and any(follower.name != registry.CONTROL for follower in followers)
        and asks_for_overview(query)
    ):
        return mark_superseded(with_provenance(journal, _overview(journal, limit)), query)
    wanted = min(limit, LARGEST_SEQ)  # what a database can count
    for _ in range(_MOST_ROUNDS):
        rankings = {follower.name: _hits(follower.backend, query, wanted, among) for follower in followers}
        recollections = merge_repeats(with_provenance(journal, fuse_hits(rankings, wanted)))
        exhausted = all(len(hits) < wanted for hits in rankings.values())
        if len(recollections) >= limit or exhausted:
            break
        wanted *= _GROWTH
    return mark_superseded(recollections[:limit], query)


def _hits(backend: MemoryBackend, query: str, limit: int, among: Collection[int] | None) -> list[Hit]:
    if among is None:
        return backend.recall(query, limit=limit)
    return backend.recall_among(query, among, limit=limit)


def merge_repeats(recollections: Iterable[Recollection]) -> list[Recollection]:
    """Return recollections of which no two have the same words by the same speaker, in the same order.

    The latest that a user said stands for all, with the best place and score.

    Args:
        recollections: best first.
    """
    by_words: dict[tuple[str, str | None], list[Recollection]] = {}
    for item in recollections:
        by_words.setdefault((normalize(item.text), item.speaker), []).append(item)
    return [_merged(repeats) if len(repeats) > 1 else repeats[0] for repeats in by_words.values()]


def _merged(repeats: Sequence[Recollection]) -> Recollection:
    """Return one recollection in place of several with the same words, with the turns of all."""
    latest = max(repeats, key=lambda item: (item.role == "user", item.created_at, item.seqs[0]))
    all_seqs = {seq for item in repeats for seq in item.seqs}
    others = sorted(all_seqs.difference(latest.seqs), reverse=True)
    widest = max(repeats, key=lambda item: len(item.seqs))
    times = f" Said {len(all_seqs)} times." if len(all_seqs) > len(widest.seqs) else ""
    return replace(latest, score=repeats[0].score, seqs=(*latest.seqs, *others), why=widest.why + times)


def _overview(journal: JournalReader, limit: int) -> list[Hit]:
    """Return the latest statements of the user, the newest first; a word or two ("Thanks!") tell nothing."""
    by_words: dict[tuple[str, str | None], Turn] = {}
    for turn in reversed(journal.recent(_OVERVIEW_TURNS)):
        telling = len(content_words(turn.text)) > 1 and not is_question(turn.text)
        if turn.role == "user" and telling:
            by_words.setdefault((normalize(turn.text), turn.speaker), turn)
    why = "You ask for all that is known; this is among the latest that you said."
    return [
        Hit((turn.seq,), 1 / place, why, text=split_turn(turn)[0].text)
        for place, turn in enumerate(list(by_words.values())[:limit], start=1)
    ]
