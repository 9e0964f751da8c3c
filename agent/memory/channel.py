"""Open the model channel of a memory's backends for one generation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

from memagent.agent.journal import JournalReader
from memagent.agent.memory.follower import Follower
from memagent.agent.memory.fusion import fuse_hits
from memagent.agent.memory.provenance import with_provenance
from memagent.agent.memory.supersession import mark_superseded
from memagent.backends.protocol import LocalModel, ModelMemory
from memagent.backends.records import Hit, Recollection


@dataclass(frozen=True, slots=True)
class AttachedMemory:
    """What the model channel brings into one generation.

    Attributes:
        recollections: the recalled items, for ``/why``.
        seqs: every turn that can influence the reply; see ``Injection.seqs``.
    """

    recollections: tuple[Recollection, ...]
    seqs: frozenset[int]


def attach(
    followers: Sequence[Follower],
    journal: JournalReader,
    model: LocalModel,
    query: str,
    exclude: Collection[int],
    stack: ExitStack,
) -> AttachedMemory:
    """Attach every backend that has a model channel to a model.

    Args:
        followers: the memory's backends.
        journal: where the provenance of hits is looked up.
        model: the local model that generates the reply.
        query: the message that is being answered.
        exclude: seqs of turns that are in the prompt already.
        stack: detaches the backends when it is closed.
    """
    rankings: dict[str, list[Hit]] = {}
    seqs: frozenset[int] = frozenset()
    for follower in followers:
        if follower.backend.model_channel:
            channel = cast(ModelMemory, follower.backend)
            injection = stack.enter_context(channel.attached(model, query, exclude=exclude))
            rankings[follower.name] = injection.hits
            seqs |= injection.seqs
    hits = fuse_hits(rankings, limit=sum(map(len, rankings.values())))
    return AttachedMemory(tuple(mark_superseded(with_provenance(journal, hits), query)), seqs)
