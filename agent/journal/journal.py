"""One user's journal: append and forget. Reading is in ``reading``.

Cost: appending is two indexed inserts whatever the length of the journal; forgetting rewrites the file once per call.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import delete, insert, select

from memagent.agent.journal.audit import audit
from memagent.agent.journal.chain import timestamp
from memagent.agent.journal.database import copy_database, open_database, purge
from memagent.agent.journal.mark import HighWaterMark, UnreadableMarkError
from memagent.agent.journal.reading import JournalReader
from memagent.agent.journal.records import (
    Extent,
    Forgetting,
    NewTurn,
    Tombstone,
    Unfinished,
    check_name,
    check_turn,
)
from memagent.agent.journal.schema import (
    NoJournalError,
    checkpoints,
    meta,
    prepare,
    sessions,
    unfinished,
)
from memagent.agent.journal.writing import Transaction
from memagent.backends.errors import JournalDamagedError, StorageError
from memagent.backends.records import Turn

# What a reader waits for the tables of a journal that another process has just begun.
_CREATION_SECONDS = 1.0


class Journal(JournalReader):
    """The turns and forgettings of one user, in one database.

    Args:
        target: a SQLite file, or a database URL that several users and machines may share.
        user: whose journal; never empty.
        mark: the file of its high-water mark; None keeps none.
        read_only: nothing is created, changed or brought up to date, and a read-only disk will do.
        trusting: do not hold the journal against its mark: for whoever reports or accepts a loss.

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
        noted = None if trusting else self._noted()
        if isinstance(target, Path) and not trusting and self.mark is not None and self.mark.exists():
            _check_not_emptied(target, user, noted)
        may_create = not (read_only or trusting)
        super().__init__(open_database(target, read_only=read_only, may_create=may_create), user)
        try:
            self.id = self._prepare()
            if noted is not None:
                self.confirm(noted, f"Its high-water mark {mark}")
        except BaseException:
            self.close()
            raise
        if self.mark is not None and not read_only and not trusting and noted is None:
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
    ) -> Turn:
        """Add one turn and commit it. When this returns, the turn is safe.

        Raises:
            InputError: the text is empty, or cannot be stored; see ``check_text``.
            StorageError: the database cannot be written; nothing was stored.
        """
        return self.extend([NewTurn(session, role, text, speaker, created_at, in_view, derived)])[0]

    def extend(self, new: Sequence[NewTurn | Tombstone], moved: dict[int, int] | None = None) -> list[Turn]:
        """Add several turns in one commit: all of them or none.

        A ``seq`` asked for (by an import) is kept where it is above all seqs here and up to 2^52. Tombstones of an
        import are taken over, so that those turns stay forgotten; the chain goes on with one whose seq is above all here.

        Args:
            moved: where seqs of another journal are here. Turns added are noted in it, and what their
                ``in_view`` names of that journal is translated; what it does not know is left out.
        """
        for entry in new:
            if isinstance(entry, NewTurn):
                check_turn(entry)
        if not new:
            return []
        with self._writing() as transaction:
            return transaction.extend(new, moved)

    def append_reply(self, session: str, text: str, in_view: Sequence[int], *, derived: bool) -> Turn | None:
        """Add the assistant's reply, unless a turn that it saw has been forgotten since: then it may repeat that turn.

        Returns:
            The turn, or None if nothing was stored.

        Raises:
            InputError, StorageError: as in ``append``.
        """
        new = NewTurn(session, "assistant", text, in_view=tuple(in_view), derived=derived)
        check_turn(new)
        with self._writing() as transaction:
            return transaction.extend([new], None)[0] if transaction.has_all(new.in_view) else None

    def add_sessions(self, created: dict[str, datetime]) -> None:
        """Note when sessions began; a session already there keeps its time."""
        with self._writing() as transaction:
            transaction.add_sessions(created)

    def forget(self, seqs: Collection[int], states: Collection[tuple[str, str]] = ()) -> list[Forgetting]:
        """Remove turns: text, role, session and salt go, a tombstone with id and time stays.

        The same commit notes what is still to be done: rewriting the journal's file, and every stored state. Then the
        file is rewritten, so that no file of the database holds the text. Seqs not there are ignored. This is the
        journal's part only; ``forgetting.forget`` also clears the backends.

        Args:
            states: backend and place of stored states besides those of ``checkpoints``.

        Raises:
            StorageError: nothing was forgotten.
            UnpurgedError: the turns are forgotten, but the file could not be rewritten yet.
        """
        with self._writing() as transaction:
            made = transaction.forget(seqs)
            if made:
                transaction.note_unfinished({*states, *transaction.stored_states()})
        if made:
            self.finish_purge()
        return made

    def reserve(self, seq: int) -> None:
        """Give new turns seqs above this one, so that no seq of a lost turn is given twice."""
        with self._writing() as transaction:
            transaction.reserve(seq)

    def delete_session(self, session: str) -> None:
        """Drop an empty session's name; its turns must have been forgotten first.

        Raises:
            UnpurgedError: it is dropped, but the file could not be rewritten yet.
        """
        with self._writing() as transaction:
            mine = (sessions.c.user == self.user) & (sessions.c.name == session)
            transaction.connection.execute(delete(sessions).where(mine))
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
        due = [one for one in self.unfinished() if not one.backend]
        if not due:
            return
        try:
            self.purge()
        except StorageError as error:
            raise UnpurgedError(
                f"The turns are forgotten, but their bytes may still be in the journal's file: {error} "
                "The next command that writes tries again; so does `memagent doctor --mend`."
            ) from error
        self.finished(due[0])

    def finished(self, done: Unfinished) -> None:
        """Note that a part of forgetting is done, up to its number."""
        with self._writing() as transaction:
            transaction.connection.execute(
                delete(unfinished)
                .filter_by(user=self.user, backend=done.backend, place=done.place)
                .where(unfinished.c.forgetting <= done.forgetting)
            )

    def note_checkpoint(self, backend: str, place: str, extent: Extent, manifest_sha256: str) -> None:
        """Record that a backend has stored a state, and that it has followed the forgettings up to there."""
        key = {"user": self.user, "backend": backend, "place": place}
        values = {"seq": extent.seq, "forgetting": extent.forgetting, "manifest_sha256": manifest_sha256}
        with self._writing() as transaction:
            transaction.connection.execute(delete(checkpoints).filter_by(**key))
            transaction.connection.execute(
                insert(checkpoints).values(**key, **values, created_at=timestamp(datetime.now(UTC)))
            )

    def drop_checkpoint(self, backend: str, place: str) -> None:
        """Record that a backend has no stored state there any more."""
        with self._writing() as transaction:
            transaction.connection.execute(
                delete(checkpoints).filter_by(user=self.user, backend=backend, place=place)
            )

    def backup(self, file: Path) -> None:
        """Copy the whole database into a new file while it is in use, without what was forgotten.

        Raises:
            StorageError: the database is kept by a server, or failed.
            OSError: the file exists already or cannot be written.
        """
        copy_database(self._opened(), file)

    def audit(self) -> list[str]:
        """Prove the chain and everything the journal says of itself; return what is wrong, in sentences."""
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

    def _noted(self) -> Extent | None:
        """How far the mark says the journal has been; None where it says nothing."""
        try:
            return self.mark.read() if self.mark is not None else None
        except UnreadableMarkError:
            return None

    @contextmanager
    def _writing(self) -> Iterator[Transaction]:
        """A transaction that holds the write lock from its beginning and commits at its end; then the mark follows."""
        if self._read_only:
            raise StorageError(f"The journal {self.where} was opened for reading only.")
        with self._connect(begin="BEGIN IMMEDIATE") as connection:
            with connection.begin():
                transaction = Transaction(connection, self.user)
                yield transaction
                reached = transaction.finish()
            if self.mark is not None:
                self.mark.advance(reached)


class UnpurgedError(StorageError):
    """Turns are forgotten, but the journal's file could not be rewritten yet and may still hold their bytes."""


def _check_not_emptied(file: Path, user: str, noted: Extent | None) -> None:
    """Refuse to begin a new journal where there was one."""
    missing = not file.exists()
    if missing or file.stat().st_size == 0:
        reached = f"with turns up to {noted.seq:,} " if noted is not None else ""
        raise JournalDamagedError(
            f"The journal {file} is {'missing' if missing else 'empty'}, but its high-water mark says that there was one "
            f"{reached}here. Nothing was changed.",
            user,
        )
