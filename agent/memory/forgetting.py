"""Forget a turn everywhere: in the journal, in every memory that read it, with every reply that may repeat it.

The commit that removes turns from the journal also records the remaining steps (``Unfinished``): rewriting the journal's
file, and each stored state. If the process is killed, the next command finishes them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from memagent.agent.home import Home
from memagent.agent.journal import Journal, Unfinished, UnpurgedError
from memagent.agent.journal.item_index import outdated_seqs
from memagent.agent.memory.checkpoint import Checkpoint, CheckpointStore, ForeignStateError
from memagent.agent.memory.lock import BackendLock, backend_lock
from memagent.agent.memory.stored_backend import discard
from memagent.agent.memory.workspace import Scratch, remove_dead_readers
from memagent.backends.errors import (
    BusyError,
    CheckpointError,
    JournalDamagedError,
    MemagentError,
)
from memagent.backends.records import Turn

if TYPE_CHECKING:
    from memagent.agent.memory import Memory

# How long to wait for a memory that another process is about to close. One that stays in use follows at its next call.
_WAIT_SECONDS = 2.0

Follow = Callable[[Sequence[Turn]], object]
"""Lets an open backend follow the journal. The argument is the content of the turns that were just forgotten."""

OpenBeside = Callable[[str, Mapping[str, str], BackendLock], "Memory"]
"""Opens another memory of the user as it was stored, from the backend's name, its settings and its acquired lock."""


@dataclass(frozen=True, slots=True)
class Remaining:
    """A step of forgetting that could not be done yet.

    Attributes:
        backend: name of the backend whose files may still contain forgotten turns; empty: the journal's file may.
        reason: why the step could not be done, in one sentence.
        command: the command that finishes it; empty if the process that uses the memory does so at its next call.
    """

    backend: str
    reason: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a call of ``forget`` removed.

    Attributes:
        turns: seqs of the removed turns among those that the caller named.
        replies: seqs of the removed replies that may repeat them.
        discarded: names of backends whose stored state was removed because it could not be opened; they are rebuilt
            from the journal when next used.
        remaining: steps that could not be done yet; usually none.
    """

    turns: tuple[int, ...]
    replies: tuple[int, ...]
    discarded: tuple[str, ...] = ()
    remaining: tuple[Remaining, ...] = ()


def forget(
    home: Home,
    journal: Journal,
    seqs: Collection[int],
    open_beside: OpenBeside,
    open_backends: Mapping[str, Follow] = MappingProxyType({}),
) -> Forgotten:
    """Remove turns, and the replies that may repeat them, from the journal and from every stored memory of the user.

    Afterwards no recollection, export, checkpoint or file contains their text. Where that is not possible yet,
    ``Forgotten.remaining`` says where and why. Outdated items (see ``journal.items``) are removed with them. An empty
    ``seqs`` finishes what earlier forgettings could not do.

    Args:
        home: the folders of the installation.
        journal: the user's journal.
        seqs: the turns to remove; unknown seqs are ignored.
        open_beside: opens a stored memory that has to forget.
        open_backends: the backends that the caller has open, with the function that lets each follow the journal.

    Returns:
        What was removed and what remains to be done.

    Raises:
        StorageError: the journal could not be changed; nothing was forgotten.
    """
    turns = journal.get(seqs)
    present = [turn.seq for turn in turns]
    outdated = sorted(outdated_seqs(journal).difference(present))
    removed = [*present, *outdated]
    replies = journal.replies_that_saw(removed)
    if removed:
        turns += journal.get([*outdated, *replies])
        with suppress(UnpurgedError):  # ``finish`` tries again and reports it
            journal.forget([*removed, *replies], _states(home, journal))
    return _follow(home, journal, turns, present, replies, open_beside, open_backends)


def correct(
    home: Home,
    journal: Journal,
    seq: int,
    text: str,
    open_beside: OpenBeside,
    open_backends: Mapping[str, Follow] = MappingProxyType({}),
) -> tuple[Turn, Forgotten]:
    """Replace a turn whose text was wrong: a new one takes over all but the text, and the old one is forgotten everywhere.

    A fact that was right and has changed is better remembered as a new turn: then memory knows both, and since when.

    Args:
        home: the folders of the installation.
        journal: the user's journal.
        seq: of the turn.
        text: what it should have said.
        open_beside: as in ``forget``.
        open_backends: as in ``forget``.

    Returns:
        The new turn, and what was removed.

    Raises:
        InputError: there is no such turn, or the text cannot be stored; nothing was changed.
        StorageError: the journal could not be changed.
    """
    replies = journal.replies_that_saw([seq])
    removed = journal.get([seq, *replies])
    new_turn = journal.correct(seq, text, replies, _states(home, journal))
    return new_turn, _follow(home, journal, removed, [seq], replies, open_beside, open_backends)


def _states(home: Home, journal: Journal) -> list[tuple[str, str]]:
    """Return backend and place of the states that this home keeps for the user."""
    place = home.place()
    return [(name, place) for name in home.backends_of(journal.user)]


def _follow(
    home: Home,
    journal: Journal,
    turns: Sequence[Turn],
    present: Sequence[int],
    replies: Sequence[int],
    open_beside: OpenBeside,
    open_backends: Mapping[str, Follow],
) -> Forgotten:
    """Let all memories follow what the journal has forgotten: ``present`` and ``replies``, whose content is ``turns``."""
    failed: dict[str, Remaining] = {}
    for name, follow in open_backends.items():
        try:
            follow(turns)
        except (MemagentError, OSError) as error:
            failed[name] = Remaining(
                name, f"It could not follow the journal: {error}", "memagent doctor --mend"
            )
    discarded, remaining = finish(home, journal, open_beside, open_backends=open_backends, forgotten=turns)
    remaining = [*failed.values(), *(step for step in remaining if step.backend not in failed)]
    return Forgotten(tuple(present), tuple(replies), tuple(discarded), tuple(remaining))


def finish(
    home: Home,
    journal: Journal,
    open_beside: OpenBeside,
    *,
    open_backends: Collection[str] = (),
    forgotten: Sequence[Turn] = (),
) -> tuple[list[str], list[Remaining]]:
    """Finish the steps that forgettings could not do: rewrite the journal's file and the stored states of this home.

    A state may need its models, which are loaded and may be fetched.

    Args:
        home: the folders of the installation.
        journal: the user's journal.
        open_beside: opens a stored memory that has to forget.
        open_backends: names of the backends that the caller has open; the caller lets them follow the journal.
        forgotten: content of turns that were just forgotten, as far as it is available.

    Returns:
        Names of the backends whose state was removed because it could not be opened, and what remains to be done.
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
                Remaining(
                    due.backend, f"Its state is at {due.place}; it is removed there when it is next used."
                )
            )
        elif due.backend in open_backends:
            remaining.append(
                Remaining(due.backend, "A process that reads it has a copy, which is removed when it ends.")
            )
        else:
            removed, step = _finish_state(home, journal, open_beside, due, forgotten)
            discarded += [due.backend] * removed
            remaining += [step] if step is not None else []
    return discarded, remaining


def _purge(journal: Journal) -> str:
    """Rewrite the journal's file if that is still to be done; return why it could not be, or an empty text."""
    try:
        journal.finish_purge()
    except UnpurgedError as error:
        return str(error)
    return ""


def _finish_state(
    home: Home, journal: Journal, open_beside: OpenBeside, due: Unfinished, forgotten: Sequence[Turn]
) -> tuple[bool, Remaining | None]:
    """Remove forgotten turns from a stored state.

    Returns:
        True if the whole state was removed instead, and the step that remains, if any.
    """
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
            removed = not _let_state_follow(journal, store, open_beside, due, lock, forgotten)
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


def _let_state_follow(
    journal: Journal,
    store: CheckpointStore,
    open_beside: OpenBeside,
    due: Unfinished,
    lock: BackendLock,
    forgotten: Sequence[Turn],
) -> bool:
    """Open a stored state, remove from it what the journal has forgotten, and store it as a new generation.

    A state that has followed already is not opened. The models that it needs are loaded, and may be fetched.

    Returns:
        False if the state cannot be opened and the caller may remove it: it is damaged, or cheap to rebuild.

    Raises:
        JournalDamagedError: the journal has lost turns; the state is kept.
        MemagentError: the state is undamaged but cannot be opened, and is costly to rebuild; it is kept.
    """
    checkpoint: Checkpoint | None = None
    try:
        checkpoint = store.read()
        if checkpoint is None or checkpoint.extent.forgetting >= due.forgetting:
            return True
        with open_beside(due.backend, checkpoint.settings, lock) as memory:
            memory.follow_forgettings(forgotten)
        return True
    except JournalDamagedError:
        raise
    except MemagentError as error:
        damaged = isinstance(error, CheckpointError) and not isinstance(error, ForeignStateError)
        if checkpoint is not None and checkpoint.costly and not damaged:
            raise
        return False
    finally:
        lock.acquire(_WAIT_SECONDS)  # closing the memory released it


def _command(backend: str, user: str, error: Exception) -> str:
    """Return the command that finishes a step that failed with an error."""
    if isinstance(error, JournalDamagedError):
        return f"memagent accept-loss --user {shlex.quote(user)}"
    return (
        f"memagent backends rebuild {backend} --user {shlex.quote(user)} --model THE_MODEL_IT_WAS_MADE_WITH"
    )
