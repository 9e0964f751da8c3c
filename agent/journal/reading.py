"""Reading one user's journal."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Row, Select, func, select

from memagent.agent.journal.attachments import read_content, read_descriptors
from memagent.agent.journal.chain import GENESIS
from memagent.agent.journal.database import Database
from memagent.agent.journal.records import Entry, Extent, Forgetting, Session, Unfinished
from memagent.agent.journal.rows import PAGE, last_key, pages, row_forgetting, row_time, row_turn, seq_pages
from memagent.agent.journal.schema import (
    chain,
    checkpoints,
    forgettings,
    pins,
    sessions,
    turns,
    unfinished,
    users,
)
from memagent.backends.errors import JournalDamagedError, NotFoundError, StorageError
from memagent.backends.records import Attachment, Turn
from memagent.backends.shared.text import fold

_TITLE_CHARACTERS = 120


class JournalReader:
    """Reads one user's journal, a page at a time, so that a journal of any length fits into memory.

    Args:
        database: kept open until ``close``.
        user: whose journal.

    Attributes:
        where: the database, for messages.
    """

    def __init__(self, database: Database, user: str) -> None:
        self.user = user
        self._database: Database | None = database
        self.where = database.where

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database. Closing again does nothing."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    # turns

    def turns(self, *, after: int = 0, session: str | None = None) -> Iterator[Turn]:
        """Yield turns with ``seq > after`` in journal order, a page at a time."""
        query = select(turns).where(turns.c.user == self.user).order_by(turns.c.seq).limit(PAGE)
        if session is not None:
            query = query.where(turns.c.session == session)
        while page := self._fetch_turns(query.where(turns.c.seq > after)):
            (after,) = last_key([row for row, _ in page], (after,), "seq")
            yield from (row_turn(row, attachments) for row, attachments in page)

    def get(self, seqs: Collection[int]) -> list[Turn]:
        """Return the turns with these seqs, in journal order; unknown and forgotten ones are left out."""
        query = select(turns).where(turns.c.user == self.user).order_by(turns.c.seq)
        return [
            turn for page in seq_pages(seqs) for turn in self._read_turns(query.where(turns.c.seq.in_(page)))
        ]

    def recent(self, limit: int, session: str | None = None, *, before: int | None = None) -> list[Turn]:
        """Return the last ``limit`` turns, of one session or of all, oldest first; or the last ones with ``seq < before``."""
        query = select(turns).where(turns.c.user == self.user)
        if session is not None:
            query = query.where(turns.c.session == session)
        if before is not None:
            query = query.where(turns.c.seq < before)
        return self._read_turns(query.order_by(turns.c.seq.desc()).limit(limit))[::-1]

    def recent_blocks(self, block: int, session: str) -> list[Turn]:
        """Return the last turns of a session, from a turn on that changes only once in ``block`` turns, oldest first.

        Cost: counts the session's turns in an index, and reads fewer than twice ``block``.

        Args:
            block: the turns of a session are counted in blocks of this size.
            session: name of the session.

        Returns:
            The last, incomplete block and the one before it.
        """
        in_session = (turns.c.user == self.user) & (turns.c.session == session)
        count = int(self.fetch(select(func.count().label("n")).select_from(turns).where(in_session))[0].n)
        first = max(0, count // block - 1) * block
        return self._read_turns(select(turns).where(in_session).order_by(turns.c.seq).offset(first))

    def matching(self, text: str) -> Iterator[Turn]:
        """Yield the turns that hold ``text``, in any case and Unicode form. Cost: reads the whole journal."""
        folded = fold(text)
        return (turn for turn in self.turns() if folded in fold(turn.text))

    def replies_that_saw(self, seqs: Collection[int]) -> list[int]:
        """Find the assistant's replies that had given turns in view, directly or through another reply.

        Such a reply may repeat the turn, so it is forgotten with the turn.
        Cost: one pass over the journal after the first of the turns.

        Args:
            seqs: seqs of the turns.

        Returns:
            Seqs of the replies, ascending, without ``seqs``.
        """
        affected = set(seqs)
        replies: list[int] = []
        if not affected:
            return replies
        for turn in self.turns(after=min(affected)):
            if (
                turn.role == "assistant"
                and turn.seq not in affected
                and not affected.isdisjoint(turn.in_view)
            ):
                affected.add(turn.seq)
                replies.append(turn.seq)
        return replies

    def pinned(self) -> list[Turn]:
        """Return the pinned turns, in journal order."""
        query = select(turns).join(pins, (pins.c.user == turns.c.user) & (pins.c.seq == turns.c.seq))
        return self._read_turns(query.where(turns.c.user == self.user).order_by(turns.c.seq))

    def attachment(self, seq: int, position: int) -> bytes:
        """Return the bytes of an attachment, proved by their digest.

        Args:
            seq: of the turn.
            position: in ``Turn.attachments``, from 0.

        Raises:
            NotFoundError: the turn, or that attachment of it, is not there.
            DamagedRowError: the bytes are not those that were stored.
        """
        with self._connect() as connection:
            content = read_content(connection, self.user, seq, position)
        if content is None:
            turns_here = self.get([seq])
            known = range(len(turns_here[0].attachments)) if turns_here else ()
            raise NotFoundError(f"attachment of turn {seq} at position", str(position), map(str, known))
        return content

    def seen_ids(self, ids: Collection[str]) -> dict[str, int]:
        """Return those of these turn ids that were ever here: their seq, or 0 if forgotten."""
        seqs_by_id: dict[str, int] = {}
        for page in pages(sorted(ids)):
            forgotten = select(forgettings.c.turn_id).where(
                (forgettings.c.user == self.user) & forgettings.c.turn_id.in_(page)
            )
            seqs_by_id.update({row.turn_id: 0 for row in self.fetch(forgotten)})
            present = select(turns.c.id, turns.c.seq).where(
                (turns.c.user == self.user) & turns.c.id.in_(page)
            )
            seqs_by_id.update({row.id: row.seq for row in self.fetch(present)})
        return seqs_by_id

    def count(self) -> int:
        """Return the number of turns that are not forgotten."""
        query = select(func.count().label("n")).select_from(turns).where(turns.c.user == self.user)
        return int(self.fetch(query)[0].n)

    # sessions

    def sessions(self) -> list[Session]:
        """Return all sessions, the one with the latest turn last.

        A title is read from the first message each time, not stored, so that it goes when that message is forgotten.
        Cost: one query; it counts all turns, and reads one message for each session by an index.
        """
        own_turns = (turns.c.user == sessions.c.user) & (turns.c.session == sessions.c.name)
        first = turns.alias()
        beginning = (
            select(func.substr(first.c.text, 1, _TITLE_CHARACTERS))
            .where(first.c.user == self.user, first.c.session == sessions.c.name, first.c.role == "user")
            .order_by(first.c.seq)
            .limit(1)
            .scalar_subquery()
        )
        query = (
            select(
                sessions.c.name,
                beginning.label("beginning"),
                sessions.c.created_at,
                func.count(turns.c.seq).label("turns"),
                func.max(turns.c.created_at).label("last_at"),
            )
            .select_from(sessions.outerjoin(turns, own_turns))
            .where(sessions.c.user == self.user)
            .group_by(sessions.c.name, sessions.c.created_at)
            .order_by(func.coalesce(func.max(turns.c.seq), 0), sessions.c.created_at)
        )
        return [
            Session(
                row.name,
                row_time(row.created_at),
                row.turns,
                row_time(row.last_at) if row.last_at else None,
                " ".join((row.beginning or "").split()),
            )
            for row in self.fetch(query)
        ]

    def session_names(self) -> list[str]:
        """Return the names of all sessions, the one that began last first. Cost: reads no turn."""
        query = select(sessions.c.name).where(sessions.c.user == self.user)
        return [row.name for row in self.fetch(query.order_by(sessions.c.created_at.desc()))]

    def session(self, name: str) -> Session:
        """Return one session.

        Raises:
            NotFoundError: there is no session of that name.
        """
        sessions_by_name = {session.name: session for session in self.sessions()}
        if name not in sessions_by_name:
            raise NotFoundError(
                "session",
                name,
                sessions_by_name,
                f"`memagent sessions list --user {shlex.quote(self.user)}` shows them.",
            )
        return sessions_by_name[name]

    # forgettings, and what they left to do

    def forgettings(self, after: int = 0) -> list[Forgetting]:
        """Return the forgettings with ``number > after``, in order."""
        query = select(forgettings).where((forgettings.c.user == self.user) & (forgettings.c.number > after))
        return [row_forgetting(row) for row in self.fetch(query.order_by(forgettings.c.number))]

    def entries(self) -> Iterator[Entry]:
        """Yield the links of the chain in order. A link whose turn is lost has neither turn nor tombstone."""
        after = 0
        links = select(chain).where(chain.c.user == self.user).order_by(chain.c.seq).limit(PAGE)
        while page := self.fetch(links.where(chain.c.seq > after)):
            first, (after,) = page[0].seq, last_key(page, (after,), "seq")
            query = select(turns).where((turns.c.user == self.user) & turns.c.seq.between(first, after))
            turn_rows = {row.seq: (row, attachments) for row, attachments in self._fetch_turns(query)}
            query = select(forgettings).where(
                (forgettings.c.user == self.user) & forgettings.c.seq.between(first, after)
            )
            tombstones = {row.seq: row_forgetting(row) for row in self.fetch(query)}
            for link in page:
                row, attachments = turn_rows.get(link.seq, (None, ()))
                yield Entry(
                    link.leaf,
                    row_turn(row, attachments) if row is not None else None,
                    row.salt if row is not None else None,
                    tombstones.get(link.seq),
                )

    def unfinished(self) -> list[Unfinished]:
        """Return the parts of forgetting that are still to be done, on this machine or on others."""
        query = select(unfinished).where(unfinished.c.user == self.user).order_by(unfinished.c.backend)
        return [Unfinished(row.backend, row.place, row.forgetting) for row in self.fetch(query)]

    def checkpoints(self) -> list[tuple[str, str, int]]:
        """Return backend, place and last seq of the states stored for this journal, wherever they are."""
        query = select(checkpoints).where(checkpoints.c.user == self.user).order_by(checkpoints.c.backend)
        return [(row.backend, row.place, row.seq) for row in self.fetch(query)]

    # how far it reaches

    def last(self) -> tuple[int, int]:
        """Return the highest seq ever given and the number of the last forgetting; (0, 0) if empty."""
        rows = self.fetch(select(users.c.last_seq, users.c.last_forgetting).where(users.c.name == self.user))
        return (rows[0].last_seq, rows[0].last_forgetting) if rows else (0, 0)

    def extent(self, seq: int | None = None, forgetting: int | None = None) -> Extent:
        """Return how far the journal reaches, with the heads of both chains there.

        Args:
            seq: an earlier end of the turns; None: the last one.
            forgetting: an earlier end of the forgettings; None: the last one.
        """
        with self._connect() as connection:
            full = _read_extent(connection, self.user) or Extent(0, GENESIS.hex(), 0, GENESIS.hex())
        seq = full.seq if seq is None else seq
        forgetting = full.forgetting if forgetting is None else forgetting
        if (seq, forgetting) == (full.seq, full.forgetting):
            return full
        turn_heads = (
            select(chain.c.head)
            .where((chain.c.user == self.user) & (chain.c.seq <= seq))
            .order_by(chain.c.seq.desc())
        )
        forgetting_heads = select(forgettings.c.head).where(
            (forgettings.c.user == self.user) & (forgettings.c.number == forgetting)
        )
        heads = [self.fetch(query.limit(1)) for query in (turn_heads, forgetting_heads)]
        head, forgetting_head = ((rows[0].head if rows else None) or GENESIS for rows in heads)
        return Extent(seq, head.hex(), forgetting, forgetting_head.hex())

    def confirm(self, claimed: Extent, claimant: str) -> None:
        """Make sure that the journal continues an earlier state of it.

        Args:
            claimed: how far the journal reached then.
            claimant: who says so, for the message: "The stored memory of rag".

        Raises:
            JournalDamagedError: the journal is shorter than that, or holds other turns: turns were lost.
        """
        last_seq, last_forgetting = self.last()
        if (
            claimed.seq > last_seq
            or claimed.forgetting > last_forgetting
            or self.extent(claimed.seq, claimed.forgetting) != claimed
        ):
            raise JournalDamagedError(
                f"The journal {self.where} has {self.count():,} turns up to {last_seq:,} and {last_forgetting:,} forgettings. "
                f"{claimant} covers a journal with turns up to {claimed.seq:,} and {claimed.forgetting:,} forgettings, "
                "which this one does not continue: turns were lost, or an older or another journal was put in its place. "
                "Nothing was changed.",
                self.user,
            )

    @contextmanager
    def snapshot(self) -> Iterator[JournalReader]:
        """Read the journal as it is now, whatever is written or forgotten meanwhile; for one thread.

        Yields:
            A reader of that state; it ends with the context.
        """
        serial = {} if self._opened().is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with self._connect(**serial) as connection, connection.begin():
            yield _Snapshot(self._opened(), self.user, connection)

    # inside

    def _opened(self) -> Database:
        """Return the database; StorageError if the journal is closed."""
        if self._database is None:
            raise StorageError(f"The journal {self.where} is closed; open it again.")
        return self._database

    @contextmanager
    def _connect(self, **options: Any) -> Iterator[Connection]:
        """Open a connection for one read; all reads of a snapshot share one."""
        with self._opened().connect(**options) as connection:
            yield connection

    def fetch(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """Return all rows of a query."""
        with self._connect() as connection:
            return connection.execute(query).all()

    def descriptors(self, turn_rows: Sequence[Row[Any]]) -> dict[int, tuple[Attachment, ...]]:
        """Return the attachments of a page of turns by seq; see ``read_descriptors``."""
        with self._connect() as connection:
            return read_descriptors(connection, self.user, turn_rows)

    def _read_turns(self, query: Select[Any]) -> list[Turn]:
        return [row_turn(row, attachments) for row, attachments in self._fetch_turns(query)]

    def _fetch_turns(self, query: Select[Any]) -> list[tuple[Row[Any], tuple[Attachment, ...]]]:
        """Return rows of ``turns``, each with the attachments of its turn."""
        # One connection for both queries: in SQLite they then read the same state of the journal.
        with self._connect() as connection:
            rows = connection.execute(query).all()
            descriptors = read_descriptors(connection, self.user, rows)
        return [(row, descriptors.get(row.seq, ())) for row in rows]


def _read_extent(connection: Connection, user: str) -> Extent | None:
    """Return how far a user's journal reaches; None if the user has none in this database."""
    columns = (users.c.last_seq, users.c.head, users.c.last_forgetting, users.c.forgetting_head)
    row = connection.execute(select(*columns).where(users.c.name == user)).first()
    return (
        Extent(row.last_seq, row.head.hex(), row.last_forgetting, row.forgetting_head.hex()) if row else None
    )


class _Snapshot(JournalReader):
    """A reader within one transaction, which its maker holds open."""

    def __init__(self, database: Database, user: str, connection: Connection) -> None:
        super().__init__(database, user)
        self._connection = connection

    def close(self) -> None:
        """Do nothing: the database belongs to the maker of the snapshot."""

    @contextmanager
    def _connect(self, **options: Any) -> Iterator[Connection]:
        yield self._connection
