"""One user's journal: append and forget. Reading is in ``reading``.

Cost: appending is two indexed inserts whatever the length of the journal; forgetting rewrites the file once per call.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select

from memagent.agent.journal import item_index
from memagent.agent.journal.audit import audit
from memagent.agent.journal.database import open_database
from memagent.agent.journal.items import Namespace, NewItem, new_turn
from memagent.agent.journal.maintenance import UnpurgedError, copy_database, purge
from memagent.agent.journal.mark import HighWaterMark, UnreadableMarkError, check_not_emptied
from memagent.agent.journal.reading import JournalReader
from memagent.agent.journal.records import (
    MAX_PINS,
    Extent,
    Forgetting,
    NewAttachment,
    NewTurn,
    Tombstone,
    Unfinished,
    check_name,
    check_text,
    check_turn,
)
from memagent.agent.journal.schema import NoJournalError, meta, prepare
from memagent.agent.journal.writing import Transaction
from memagent.backends.errors import InputError, StorageError
from memagent.backends.records import Turn

# What a reader waits for the tables of a journal that another process has just begun.
_CREATION_SECONDS = 1.0


class Journal(JournalReader):
    """The turns and forgettings of one user, in one database.

    Opening it creates what is missing, and brings an older schema up to date.

    Args:
        target: a SQLite file, or a database URL that several users and machines may share.
        user: whose journal; never empty.
        mark: the file of its high-water mark; None keeps none.
        read_only: nothing is created, changed or brought up to date, and a read-only disk will do.
        trusting: do not hold the journal against its mark, as a report of a loss, or its acceptance, needs. A file that is
            missing is not created.

    Attributes:
        id: 32 hexadecimal digits, given when the journal was made.

    Raises:
        JournalDamagedError: the mark says that the journal has lost turns.
        StorageError: the database cannot be opened, is damaged, or has a newer schema.
    """

    def __init__(
        self,
        target: Path | str,
        user: str,
        *,
        mark: Path | None = None,
        read_only: bool = False,
        trusting: bool = False,
    ) -> None:
        check_name("user name", user)
        self.mark = HighWaterMark(mark) if mark is not None else None
        self._read_only = read_only
        mark_extent = None if trusting else self._read_mark()
        if isinstance(target, Path) and not trusting and self.mark is not None and self.mark.exists():
            check_not_emptied(target, user, mark_extent)
        may_create = not (read_only or trusting)
        super().__init__(open_database(target, read_only=read_only, may_create=may_create), user)
        try:
            self.id = self._prepare()
            if mark_extent is not None:
                self.confirm(mark_extent, f"Its high-water mark {mark}")
        except BaseException:
            self.close()
            raise
        if self.mark is not None and not read_only and not trusting and mark_extent is None:
            self.mark.advance(self.extent())

    # writing

    def append(
        self,
        session: str,
        role: str,
        text: str,
        *,
        speaker: str | None = None,
        created_at: datetime | None = None,
        in_view: tuple[int, ...] = (),
        derived: bool = False,
        recalled: tuple[int, ...] = (),
        attachments: Sequence[NewAttachment] = (),
    ) -> Turn:
        """Add one turn and commit it. When this returns, the turn is safe.

        Args:
            session: name of the conversation.
            role: ``user``, ``assistant``, ``system`` or ``tool``.
            text: the message; not empty.
            speaker: name of the person, where the role does not identify them.
            created_at: None: the present.
            in_view: seqs of the turns that the model saw when it wrote this reply.
            derived: whether the reply was written with recollections in view.
            recalled: those of ``in_view`` that are recollections.
            attachments: the turn's files, committed with it; see ``check_attachments`` for the limits.

        Raises:
            InputError: the text is empty, or something cannot be stored; see ``check_turn``. Nothing was stored.
            StorageError: the database cannot be written; nothing was stored.
        """
        new = NewTurn(
            session, role, text, speaker, created_at, in_view, derived, recalled, tuple(attachments)
        )
        return self.extend([new])[0]

    def extend(
        self, new: Sequence[NewTurn | Tombstone], new_seqs: dict[int, int] | None = None
    ) -> list[Turn]:
        """Add several turns in one commit: all of them or none.

        Args:
            new: turns, and the tombstones of an import. A turn's ``seq`` is kept if it is above all seqs here and at
                most 2^52. A tombstone keeps its turn forgotten; the chain goes on with one whose seq is above all here.
            new_seqs: the seq here by the seq in another journal. The turns are noted in it, and their ``in_view`` and
                ``recalled`` are translated by it; seqs that it lacks are left out.

        Returns:
            The turns, in order.

        Raises:
            InputError, StorageError: as in ``append``; nothing was stored.
        """
        for entry in new:
            if isinstance(entry, NewTurn):
                check_turn(entry)
        if not new:
            return []
        with self._writing() as transaction:
            return transaction.extend(new, new_seqs)

    def append_reply(
        self,
        session: str,
        text: str,
        in_view: Sequence[int],
        *,
        derived: bool,
        recalled: Sequence[int] = (),
        turn_id: str | None = None,
    ) -> Turn | None:
        """Add the assistant's reply, unless a turn that it saw has been forgotten since: then it may repeat that turn.

        Args:
            session: name of the conversation.
            text: the reply; not empty.
            in_view: seqs of the turns that the model saw when it wrote the reply.
            derived: whether it was written with recollections in view.
            recalled: those of ``in_view`` that are recollections.
            turn_id: 32 hexadecimal digits that no turn of this user has; None: the journal makes them.

        Returns:
            The turn, or None if nothing was stored.

        Raises:
            InputError, StorageError: as in ``append``.
        """
        new = NewTurn(
            session,
            "assistant",
            text,
            in_view=tuple(in_view),
            derived=derived,
            recalled=tuple(recalled),
            id=turn_id,
        )
        check_turn(new)
        with self._writing() as transaction:
            return transaction.extend([new], None)[0] if transaction.has_all(new.in_view) else None

    def put_items(
        self,
        new: Sequence[NewItem],
        deleted: Sequence[tuple[Namespace, str]] = (),
        now: datetime | None = None,
    ) -> int:
        """Store items and delete others, in one commit; see ``journal.items``.

        The turns of items that are overwritten or deleted are outdated: nothing returns them, and the next
        ``forgetting.forget`` removes them.

        Args:
            new: the items; no two of the same namespace and key.
            deleted: namespace and key of the items to delete; those that are not there are ignored.
            now: the time; None: the present.

        Returns:
            The number of turns that are outdated by this.

        Raises:
            InputError: an item cannot be stored; nothing was stored or deleted.
            StorageError: the database cannot be written; nothing was stored or deleted.
        """
        now = now or datetime.now(UTC)
        new_turns = [new_turn(item, now) for item in new]
        for turn in new_turns:
            check_turn(turn)
        names = [*((item.namespace, item.key) for item in new), *deleted]
        with self._writing() as transaction:
            num_outdated = item_index.delete_items(transaction.connection, self.user, names)
            transaction.extend(new_turns, None)
        return num_outdated

    def refresh_items(self, seqs: Collection[int], now: datetime | None = None) -> None:
        """Let the time to live of items begin anew; those without one are ignored.

        Args:
            seqs: of the items' turns.
            now: the time; None: the present.
        """
        with self._writing() as transaction:
            item_index.refresh(transaction.connection, self.user, seqs, now or datetime.now(UTC))

    def add_sessions(self, created: dict[str, datetime]) -> None:
        """Note when sessions began; a session already there keeps its time."""
        with self._writing() as transaction:
            transaction.add_sessions(created)

    def forget(self, seqs: Collection[int], states: Collection[tuple[str, str]] = ()) -> list[Forgetting]:
        """Remove turns: text, role, session, attachments and salt go, a tombstone with id and time stays.

        The same commit notes what is still to be done: rewriting the journal's file, and every stored state. Then the
        file is rewritten, so that no file of the database holds their bytes. Unknown seqs are ignored. This is the
        journal's part only; ``forgetting.forget`` also clears the backends.

        Args:
            seqs: of the turns.
            states: backend and place of stored states besides those of ``checkpoints``.

        Returns:
            The tombstones of the turns that were here.

        Raises:
            StorageError: nothing was forgotten.
            UnpurgedError: the turns are forgotten, but the file could not be rewritten yet.
        """
        with self._writing() as transaction:
            new_forgettings = transaction.forget(seqs)
            if new_forgettings:
                transaction.note_unfinished({*states, *transaction.stored_states()})
        if new_forgettings:
            self.finish_purge()
        return new_forgettings

    def pin(self, seqs: Collection[int]) -> None:
        """Pin turns, so that every prompt holds them. Forgetting a turn unpins it.

        Args:
            seqs: of the turns; those pinned already, and unknown ones, are ignored.

        Raises:
            InputError: more than ``MAX_PINS`` turns would be pinned; nothing was pinned.
            StorageError: the database cannot be written; nothing was pinned.
        """
        with self._writing() as transaction:
            before = transaction.count_pins()
            transaction.pin(seqs)
            if transaction.count_pins() > max(MAX_PINS, before):
                raise InputError(
                    f"At most {MAX_PINS} turns can be pinned: every prompt holds them. Nothing was pinned; unpin one first."
                )

    def unpin(self, seqs: Collection[int]) -> None:
        """Unpin turns; those that are not pinned are ignored.

        Raises:
            StorageError: the database cannot be written; nothing was unpinned.
        """
        with self._writing() as transaction:
            transaction.unpin(seqs)

    def correct(
        self, seq: int, text: str, replies: Collection[int], states: Collection[tuple[str, str]]
    ) -> Turn:
        """Replace a turn by one with another text, and remove replies that may repeat the old text, in one commit.

        ``finish_purge`` is left to the caller. This is the journal's part only; see ``forgetting.correct``.

        Args:
            seq: of the turn.
            text: of the new turn.
            replies: seqs of the replies.
            states: as in ``forget``.

        Raises:
            InputError: there is no such turn, or the text cannot be stored; nothing was changed.
            StorageError: the journal could not be changed.
        """
        check_text(text)
        with self._writing() as transaction:
            turn = transaction.correct(seq, text)
            transaction.forget([seq, *replies])
            transaction.note_unfinished({*states, *transaction.stored_states()})
        return turn

    def reserve(self, seq: int) -> None:
        """Give new turns seqs above this one, so that no seq of a lost turn is given twice."""
        with self._writing() as transaction:
            transaction.reserve(seq)

    def delete_session(self, session: str) -> None:
        """Delete the name of an empty session; its turns must have been forgotten first.

        Raises:
            UnpurgedError: it is deleted, but the file could not be rewritten yet.
        """
        with self._writing() as transaction:
            transaction.delete_session(session)
            transaction.note_unfinished(())
        self.finish_purge()

    def purge(self) -> None:
        """Rewrite the database so that no file of it holds what was deleted.

        Raises:
            StorageError: it could not be rewritten; it can be repeated.
        """
        purge(self._opened())

    def finish_purge(self) -> None:
        """Rewrite the database if a forgetting has left that to be done.

        Raises:
            UnpurgedError: it could not be rewritten; it is still to be done.
        """
        own_parts = [part for part in self.unfinished() if not part.backend]
        if not own_parts:
            return
        try:
            self.purge()
        except StorageError as error:
            raise UnpurgedError(
                f"The turns are forgotten, but their bytes may still be in the journal's file: {error} "
                "The next command that writes tries again; so does `memagent doctor --mend`."
            ) from error
        self.finished(own_parts[0])

    def finished(self, part: Unfinished) -> None:
        """Note that a part of forgetting is done, up to its number."""
        with self._writing() as transaction:
            transaction.finish_part(part)

    def note_checkpoint(self, backend: str, place: str, extent: Extent, manifest_sha256: str) -> None:
        """Record that a backend stores a state, in place of the record of an earlier one there.

        It is called before the state becomes current: after a crash, the state there may be an earlier one, or none. If turns
        were forgotten while the state was being stored, that it must forget them too is recorded in the same commit.

        Args:
            backend: name of the backend.
            place: the home that contains the state; see ``Home.place``.
            extent: how much of the journal the state covers.
            manifest_sha256: SHA-256 of its manifest.
        """
        with self._writing() as transaction:
            transaction.drop_checkpoint(backend, place)
            transaction.add_checkpoint(backend, place, extent, manifest_sha256)

    def drop_checkpoint(self, backend: str, place: str) -> None:
        """Record that a backend has no stored state there any more."""
        with self._writing() as transaction:
            transaction.drop_checkpoint(backend, place)

    def backup(self, file: Path) -> None:
        """Copy the whole database into a new file while it is in use, without what was forgotten.

        Raises:
            StorageError: the database is kept by a server, or failed.
            OSError: the file exists already or cannot be written.
        """
        copy_database(self._opened(), file)

    def audit(self) -> list[str]:
        """Prove every turn, attachment and forgetting; see ``audit.audit``.

        Returns:
            What is wrong, in sentences; an empty list if nothing is.
        """
        with self.snapshot() as reader:
            return audit(reader, self._opened())

    # inside

    def _prepare(self) -> str:
        """Make sure that the tables are there, and return the journal's id."""
        options = {} if self._read_only else {"begin": "BEGIN IMMEDIATE"}
        deadline = time.monotonic() + _CREATION_SECONDS
        while True:
            try:
                with self._connect(**options) as connection, connection.begin():
                    prepare(connection, may_change=not self._read_only)
                    journal_id = select(meta.c.value).where(meta.c.key == "id")
                    return str(connection.execute(journal_id).scalar_one())
            except NoJournalError:  # another process may be making it
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _read_mark(self) -> Extent | None:
        """Return how far the mark says that the journal has been; None if it says nothing."""
        try:
            return self.mark.read() if self.mark is not None else None
        except UnreadableMarkError:
            return None

    @contextmanager
    def _writing(self) -> Iterator[Transaction]:
        """Open a transaction that holds the write lock and commits at its end; then the mark follows."""
        if self._read_only:
            raise StorageError(f"The journal {self.where} was opened for reading only.")
        with self._connect(begin="BEGIN IMMEDIATE") as connection:
            with connection.begin():
                transaction = Transaction(connection, self.user)
                yield transaction
                extent = transaction.finish()
            if self.mark is not None:
                self.mark.advance(extent)
