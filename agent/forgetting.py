"""Forgetting a turn everywhere: journal, every backend that read it, every reply that may repeat it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass

from memagent.agent.checkpoint import CheckpointStore
from memagent.agent.journal import Journal
from memagent.agent.lock import BackendLock
from memagent.agent.memory import Memory, backend_lock
from memagent.backends.errors import MemagentError


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
    """
    journal = memory.journal
    present = [turn.seq for turn in journal.get(seqs)]
    replies = replies_that_saw(journal, present) if present else []
    if not present:
        return Forgotten((), (), ())
    with ExitStack() as stack:
        others: dict[str, BackendLock] = {}
        for name in memory.home.backends_of(memory.user):
            if name != memory.name:
                others[name] = backend_lock(memory.home, memory.user, name)
                others[name].acquire()
                stack.callback(others[name].release)
        try:
            journal.forget([*present, *replies])
        finally:  # also where the turns are gone but their bytes could not be purged yet
            memory.catch_up()
            discarded = [name for name, lock in others.items() if not _forget_in(memory, name, lock)]
    return Forgotten(tuple(present), tuple(replies), tuple(discarded))


def _forget_in(memory: Memory, name: str, lock: BackendLock) -> bool:
    """Let another backend follow the journal; where it cannot be opened, remove what it stored."""
    store = CheckpointStore(memory.home.backend_folder(memory.user, name))
    try:
        stored = store.inspect()
        if stored is not None:
            Memory.open(memory.home, memory.user, name, stored.settings, lock=lock, strict=True).close()
        else:
            store.discard()  # what a killed process may have left half-written
        store.drop_scratch()
    except MemagentError:
        store.discard()
        store.drop_scratch()
        return False
    return True
