"""Forgetting a turn everywhere: journal, every memory that read it, every reply that may repeat it.

The journal's own commit notes what else is to be done (``Unfinished``), so a kill in between leaves a list that the
next command works off: rewriting the journal's file, and each stored state.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from memagent.agent.home import Home
from memagent.agent.journal import Journal, JournalReader, Unfinished, UnpurgedError
from memagent.agent.memory.checkpoint import Checkpoint, CheckpointStore, ForeignStateError
from memagent.agent.memory.follower import discard
from memagent.agent.memory.lock import BackendLock, backend_lock
from memagent.agent.memory.workspace import Scratch, remove_dead_readers
from memagent.backends.errors import BusyError, CheckpointError, JournalDamagedError, MemagentError
from memagent.backends.records import Turn

if TYPE_CHECKING:
    from memagent.agent.memory import Memory

# A memory that is in use is left to its holder, which follows at its next call; one that is about to be let go is waited for.
_WAIT_SECONDS = 2.0

Follow = Callable[[Sequence[Turn]], object]
"""Lets a memory that the caller holds follow the journal; it is given the turns just forgotten."""

OpenBeside = Callable[[str, Mapping[str, str], BackendLock], "Memory"]
"""Opens another memory of the user as it was stored: backend, settings, and its lock, which passes to the memory."""


@dataclass(frozen=True, slots=True)
class Remaining:
    """A part of forgetting that could not be done here and now.

    Attributes:
        backend: whose files may still hold what was forgotten; empty: the journal's own.
        reason: why, in one sentence.
        command: what finishes it; empty if it needs nobody: whoever holds the memory does it at its next call.
    """

    backend: str
    reason: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What one act of forgetting removed.

    Attributes:
        turns: seqs that were asked for and were there.
        replies: seqs of the assistant's replies that went with them.
        discarded: backends whose whole stored state was removed because they could not be opened;
            they are rebuilt from the journal when next used.
        remaining: files that may still hold the text, and what finishes it; usually none.
    """

    turns: tuple[int, ...]
    replies: tuple[int, ...]
    discarded: tuple[str, ...] = ()
    remaining: tuple[Remaining, ...] = ()


def replies_that_saw(journal: JournalReader, seqs: Collection[int]) -> list[int]:
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


def forget(
    home: Home,
    journal: Journal,
    seqs: Collection[int],
    open_beside: OpenBeside,
    own: Mapping[str, Follow] = MappingProxyType({}),
) -> Forgotten:
    """Remove turns, and the replies that may repeat them, from the journal and from every stored memory of the user.

    Afterwards their text is in no recollection, export, checkpoint or file, and does not come back; where that
    cannot be had here and now, ``Forgotten.remaining`` says where and why. Unknown seqs are ignored; without any, what
    an earlier forgetting left is finished.

    Args:
        open_beside: see ``finish``.
        own: the backends that the caller holds, and what lets each of them follow the journal.

    Raises:
        StorageError: the journal could not be changed; nothing was forgotten.
    """
    turns = journal.get(seqs)
    present = [turn.seq for turn in turns]
    replies = replies_that_saw(journal, present) if present else []
    if present:
        turns += journal.get(replies)
        place = home.place()
        with suppress(UnpurgedError):  # told with what remains
            journal.forget([*present, *replies], [(name, place) for name in home.backends_of(journal.user)])
    failed: dict[str, Remaining] = {}
    for name, follow in own.items():
        try:
            follow(turns)
        except (MemagentError, OSError) as error:
            failed[name] = Remaining(name, f"It could not follow: {error}", "memagent doctor --mend")
    discarded, remaining = finish(home, journal, open_beside, own=own, forgotten=turns)
    remaining = [*failed.values(), *(part for part in remaining if part.backend not in failed)]
    return Forgotten(tuple(present), tuple(replies), tuple(discarded), tuple(remaining))


def finish(
    home: Home,
    journal: Journal,
    open_beside: OpenBeside,
    *,
    own: Collection[str] = (),
    forgotten: Sequence[Turn] = (),
) -> tuple[list[str], list[Remaining]]:
    """Do what forgettings have left to do.

    Args:
        open_beside: opens a memory that has to forget.
        own: the backends that the caller holds, and lets follow the journal by itself.
        forgotten: turns that were just forgotten, whose content is still at hand.

    Returns:
        Backends whose state was removed because it could not be opened, and what remains to be done.
    """
    discarded: list[str] = []
    remaining: list[Remaining] = []
    for due in journal.unfinished():
        if not due.backend:
            reason = _purge(journal)
            if reason:
                remaining.append(Remaining("", reason, "memagent doctor --mend"))
        elif due.place != home.place():
            remaining.append(
                Remaining(due.backend, f"Its state lies at {due.place}, where it is removed at its next use.")
            )
        elif due.backend in own:
            remaining.append(
                Remaining(due.backend, "A process that reads it has a copy, which is removed when it ends.")
            )
        else:
            removed, left = _finish_state(home, journal, open_beside, due, forgotten)
            discarded += [due.backend] * removed
            remaining += [left] if left is not None else []
    return discarded, remaining


def _purge(journal: Journal) -> str:
    try:
        journal.finish_purge()
    except UnpurgedError as error:
        return str(error)
    return ""


def _finish_state(
    home: Home, journal: Journal, open_beside: OpenBeside, due: Unfinished, forgotten: Sequence[Turn]
) -> tuple[bool, Remaining | None]:
    """Let one stored state forget; return whether it was removed instead, and what remains to be done."""
    folder = home.backend_folder(journal.user, due.backend)
    store = CheckpointStore(folder)
    lock = backend_lock(home, journal.user, due.backend)
    with ExitStack() as stack:
        try:
            lock.acquire(_WAIT_SECONDS)
        except BusyError:
            reason = f"It is in use by {lock.holder()}, which removes them at its next call."
            return False, Remaining(due.backend, reason)
        stack.callback(lock.release)
        removed = False
        try:
            Scratch(folder).drop()
            store.remove_others()
            removed = not _state_followed(journal, store, open_beside, due, lock, forgotten)
            if removed:
                discard(journal, store, due.backend, due.place)
            if any(reader.forgetting < due.forgetting for reader in remove_dead_readers(folder)):
                return removed, Remaining(
                    due.backend, "A process that reads it has a copy, which is removed when it ends."
                )
        except (MemagentError, OSError) as error:
            return False, Remaining(due.backend, str(error), _command(due.backend, journal.user, error))
        journal.finished(due)
        return removed, None


def _state_followed(
    journal: Journal,
    store: CheckpointStore,
    open_beside: OpenBeside,
    due: Unfinished,
    lock: BackendLock,
    forgotten: Sequence[Turn],
) -> bool:
    """Let a stored state follow the forgettings; False if it cannot be opened and may be removed.

    Raises:
        MemagentError: it cannot be opened, and would be costly to make anew.
    """
    stored: Checkpoint | None = None
    try:
        stored = store.read()
        if stored is None or stored.extent.forgetting >= due.forgetting:
            return True
        with open_beside(due.backend, stored.settings, lock) as memory:
            memory.follow_forgettings(forgotten)
        return True
    except JournalDamagedError:
        raise
    except MemagentError as error:
        damaged = isinstance(error, CheckpointError) and not isinstance(error, ForeignStateError)
        if stored is not None and stored.costly and not damaged:
            raise
        return False
    finally:
        lock.acquire(_WAIT_SECONDS)  # closing the memory released it


def _command(backend: str, user: str, error: Exception) -> str:
    if isinstance(error, JournalDamagedError):
        return f"memagent accept-loss --user {shlex.quote(user)}"
    return (
        f"memagent backends rebuild {backend} --user {shlex.quote(user)} --model THE_MODEL_IT_WAS_MADE_WITH"
    )
