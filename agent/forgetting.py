"""Forgetting a turn everywhere: journal, every backend that read it, every reply that may repeat it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass

from memagent.agent.checkpoint import CheckpointStore, ForeignStateError
from memagent.agent.journal import Journal
from memagent.agent.memory import Memory, backend_lock
from memagent.backends import registry
from memagent.backends.errors import CheckpointError, MemagentError


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What one act of forgetting removed.

    Attributes:
        turns: seqs that were asked for and were there.
        replies: seqs of the assistant's replies that went with them.
        discarded: backends whose whole stored state was removed because they could not be opened;
            they are rebuilt from the journal when next used.
    """

    turns: tuple[int, ...]
    replies: tuple[int, ...]
    discarded: tuple[str, ...]


def replies_that_saw(journal: Journal, seqs: Collection[int]) -> list[int]:
    """Find the assistant's turns written with one of ``seqs`` in the prompt, directly or through a reply.

    Such a reply may repeat what it saw, so forgetting the turn means forgetting the reply.
    Cost: one pass over the journal after the first of them.
    """
    tainted = set(seqs)
    found = []
    for turn in journal.turns(after=min(tainted, default=0)):
        if turn.role == "assistant" and turn.seq not in tainted and not tainted.isdisjoint(turn.in_view):
            tainted.add(turn.seq)
            found.append(turn.seq)
    return found


def forget(memory: Memory, seqs: Collection[int]) -> Forgotten:
    """Remove turns from the journal and from every backend that has state for this user.

    Afterwards their text is in no recollection, export, checkpoint or file, and does not come back.
    Unknown seqs are ignored.

    Raises:
        BusyError: another process uses one of the user's backends; nothing was changed.
        CheckpointError: a backend whose state takes long to make was made by another model; nothing was changed.
    """
    journal = memory.journal
    present = [turn.seq for turn in journal.get(seqs)]
    replies = replies_that_saw(journal, present) if present else []
    if not present:
        return Forgotten((), (), ())
    with ExitStack() as stack:
        others = {
            name: _open(memory, name, stack)
            for name in memory.home.backends_of(memory.user)
            if name != memory.name
        }
        try:
            journal.forget([*present, *replies])
        finally:  # also where the turns are gone but their bytes could not be purged yet
            memory.catch_up()
            discarded = [name for name, other in others.items() if not _forget_in(memory, name, other)]
    return Forgotten(tuple(present), tuple(replies), tuple(discarded))


def _open(memory: Memory, name: str, stack: ExitStack) -> Memory | None:
    """Open another backend, so that it can forget; None if it stored nothing, or nothing that can be opened."""
    lock = backend_lock(memory.home, memory.user, name)
    lock.acquire()
    stack.callback(lock.release)
    try:
        stored = CheckpointStore(memory.home.backend_folder(memory.user, name)).inspect()
        if stored is None:
            return None
        other = memory.beside(name, stored.settings, lock)
    except MemagentError as error:
        damaged = isinstance(error, CheckpointError) and not isinstance(error, ForeignStateError)
        if not damaged and name in registry.names() and registry.get(name).costly:
            raise
        lock.acquire()
        return None
    stack.callback(other.close)
    return other


def _forget_in(memory: Memory, name: str, other: Memory | None) -> bool:
    """Let another backend follow the journal; where it cannot, remove what it stored and return False."""
    if other is not None:
        try:
            other.follower.follow_forgettings()
            return True
        except MemagentError:
            pass
    store = CheckpointStore(memory.home.backend_folder(memory.user, name))
    store.drop_scratch()
    return not store.discard()
