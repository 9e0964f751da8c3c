"""One user's journal: append, read, forget.

Cost: appending is one indexed insert whatever the length of the journal; reading streams in pages;
forgetting rewrites the file once per call.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from memagent.agent.journal.database import open_engine, purge, translated
from memagent.agent.journal.records import Forgetting, NewTurn, Session, check_name, check_turn
from memagent.agent.journal.schema import checkpoints, forgettings, meta, prepare, sessions, turns, users
from memagent.backends.errors import NotFoundError
from memagent.backends.protocol import Turn

_PAGE = 1000
_LARGEST_SEQ = 2**63 - 1


class Journal:
    """The turns and forgettings of one user, in one database.

    Args:
        target: a SQLite file, or a database URL that several users and machines may share.
        user: whose journal; never empty.

    Raises:
        StorageError: the database cannot be opened, is damaged, or has a newer schema.
    """

    def __init__(self, target: Path | str, user: str) -> None:
        check_name("user name", user)
        self.user = user
        self._engine = open_engine(target)
        # a URL may hold a password
        self._where = str(target) if isinstance(target, Path) else self._engine.url.render_as_string()
        try:
            with self._writing() as connection:
                prepare(connection)
                self.id: str = connection.execute(select(meta.c.value).where(meta.c.key == "id")).scalar_one()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._engine.dispose()

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

    def extend(self, new: Sequence[NewTurn], moved: dict[int, int] | None = None) -> list[Turn]:
        """Add several turns in one commit: all of them or none.

        A ``seq`` asked for (by an import) is kept where it is above all seqs here.

        Args:
            moved: where seqs of another journal are here. Turns added are noted in it, and what their
                ``in_view`` names of that journal is translated; what it does not know is left out.
        """
        for turn in new:
            check_turn(turn)
        with self._writing() as connection:
            last = self._lock_user(connection)
            made: list[Turn] = []
            for turn in new:
                last = max(last + 1, turn.seq or 0)
                in_view = turn.in_view
                if moved is not None and turn.seq is not None:
                    moved[turn.seq] = last
                    in_view = tuple(moved[seq] for seq in in_view if seq in moved)
                made.append(
                    Turn(
                        seq=last,
                        id=turn.id or uuid4().hex,
                        session=turn.session,
                        role=turn.role,
                        text=turn.text,
                        created_at=(turn.created_at or datetime.now(UTC)).astimezone(UTC),
                        speaker=turn.speaker,
                        in_view=in_view,
                        derived=turn.derived,
                    )
                )
            if made:
                self._add_sessions(connection, {turn.session: turn.created_at for turn in reversed(made)})
                connection.execute(insert(turns), [self._row(turn) for turn in made])
                self._set_user(connection, last_seq=last)
        return made

    def add_sessions(self, created: dict[str, datetime]) -> None:
        """Note when sessions began; a session already there keeps its time."""
        with self._writing() as connection:
            self._lock_user(connection)
            self._add_sessions(connection, created)

    def forget(self, seqs: Collection[int]) -> list[Forgetting]:
        """Remove turns: text, role and session go, a tombstone with id and time stays.

        Afterwards no file of the database holds their text. Seqs not there are ignored. This is the
        journal's part only; ``forgetting.forget`` also clears the backends.
        """
        with self._writing() as connection:
            self._lock_user(connection)
            number = connection.execute(
                select(users.c.last_forgetting).where(users.c.name == self.user)
            ).scalar_one()
            made: list[Forgetting] = []
            for page in _pages(sorted(seqs)):
                chosen = (turns.c.user == self.user) & turns.c.seq.in_(page)
                for seq, turn_id in connection.execute(
                    select(turns.c.seq, turns.c.id).where(chosen).order_by(turns.c.seq)
                ):
                    number += 1
                    made.append(Forgetting(number, seq, turn_id, datetime.now(UTC)))
                connection.execute(delete(turns).where(chosen))
            self._add_forgettings(connection, made)
        if made:
            self.purge()
        return made

    def add_forgettings(self, turn_ids: Sequence[tuple[int, str, datetime]]) -> None:
        """Take over tombstones (seq, turn id, time) from an export, so that those turns stay forgotten."""
        with self._writing() as connection:
            self._lock_user(connection)
            number = connection.execute(
                select(users.c.last_forgetting).where(users.c.name == self.user)
            ).scalar_one()
            made = [Forgetting(number + place, *row) for place, row in enumerate(turn_ids, start=1)]
            self._add_forgettings(connection, made)
            last = max([self._last_seq(connection), *(row[0] for row in turn_ids)])
            self._set_user(connection, last_seq=last)

    def delete_session(self, session: str) -> None:
        """Drop an empty session's name; its turns must have been forgotten first."""
        with self._writing() as connection:
            connection.execute(
                delete(sessions).where((sessions.c.user == self.user) & (sessions.c.name == session))
            )
        self.purge()

    def purge(self) -> None:
        """Rewrite the database so that no file of it holds what was deleted."""
        purge(self._engine)

    def note_checkpoint(
        self, backend: str, host: str, seq: int, forgetting: int, manifest_sha256: str
    ) -> None:
        """Record that a backend on a machine has a checkpoint up to this seq and forgetting."""
        key = {"user": self.user, "backend": backend, "host": host}
        values = {"seq": seq, "forgetting": forgetting, "manifest_sha256": manifest_sha256}
        with self._writing() as connection:
            connection.execute(delete(checkpoints).filter_by(**key))
            connection.execute(
                insert(checkpoints).values(**key, **values, created_at=_stamp(datetime.now(UTC)))
            )

    # reading

    def turns(self, *, after: int = 0, session: str | None = None) -> Iterator[Turn]:
        """Yield turns with ``seq > after`` in journal order, a page at a time, so a journal of any length fits."""
        wanted = select(turns).where(turns.c.user == self.user)
        if session is not None:
            wanted = wanted.where(turns.c.session == session)
        while page := self._fetch(wanted.where(turns.c.seq > after).order_by(turns.c.seq).limit(_PAGE)):
            yield from (_turn(row) for row in page)
            after = page[-1].seq

    def get(self, seqs: Collection[int]) -> list[Turn]:
        """Return the turns with these seqs, in journal order; unknown and forgotten ones are left out."""
        wanted = select(turns).where(turns.c.user == self.user).order_by(turns.c.seq)
        return [
            _turn(row)
            for page in _pages(sorted(seq for seq in seqs if seq <= _LARGEST_SEQ))
            for row in self._fetch(wanted.where(turns.c.seq.in_(page)))
        ]

    def recent(self, session: str, limit: int) -> list[Turn]:
        """Return a session's last ``limit`` turns, oldest first."""
        wanted = select(turns).where((turns.c.user == self.user) & (turns.c.session == session))
        return [_turn(row) for row in reversed(self._fetch(wanted.order_by(turns.c.seq.desc()).limit(limit)))]

    def matching(self, text: str) -> Iterator[Turn]:
        """Yield the turns that hold ``text``, whatever its case."""
        needle = text.casefold()
        return (turn for turn in self.turns() if needle in turn.text.casefold())

    def seen_ids(self, ids: Collection[str]) -> dict[str, int]:
        """Which of these turn ids are in the journal, with their seqs; a forgotten one has seq 0."""
        found: dict[str, int] = {}
        for page in _pages(sorted(ids)):
            gone = select(forgettings.c.turn_id).where(
                (forgettings.c.user == self.user) & forgettings.c.turn_id.in_(page)
            )
            found.update({row.turn_id: 0 for row in self._fetch(gone)})
            here = select(turns.c.id, turns.c.seq).where((turns.c.user == self.user) & turns.c.id.in_(page))
            found.update({row.id: row.seq for row in self._fetch(here)})
        return found

    def forgettings(self, after: int = 0) -> list[Forgetting]:
        """Return the forgettings with ``number > after``, in order."""
        wanted = select(forgettings).where((forgettings.c.user == self.user) & (forgettings.c.number > after))
        return [
            Forgetting(row.number, row.seq, row.turn_id, datetime.fromisoformat(row.forgotten_at))
            for row in self._fetch(wanted.order_by(forgettings.c.number))
        ]

    def sessions(self) -> list[Session]:
        """Return all sessions, the one spoken in last at the end."""
        wanted = (
            select(
                sessions.c.name,
                sessions.c.created_at,
                func.count(turns.c.seq).label("turns"),
                func.max(turns.c.created_at).label("last_at"),
            )
            .select_from(
                sessions.outerjoin(
                    turns, (turns.c.user == sessions.c.user) & (turns.c.session == sessions.c.name)
                )
            )
            .where(sessions.c.user == self.user)
            .group_by(sessions.c.name, sessions.c.created_at)
            .order_by(func.coalesce(func.max(turns.c.seq), 0), sessions.c.created_at)
        )
        return [
            Session(
                row.name,
                datetime.fromisoformat(row.created_at),
                row.turns,
                datetime.fromisoformat(row.last_at) if row.last_at else None,
            )
            for row in self._fetch(wanted)
        ]

    def session(self, name: str) -> Session:
        """Return one session.

        Raises:
            NotFoundError: there is no session of that name.
        """
        known = {session.name: session for session in self.sessions()}
        if name not in known:
            raise NotFoundError(
                "session", name, known, f"`memagent sessions list --user {self.user}` shows them."
            )
        return known[name]

    def last(self) -> tuple[int, int]:
        """Return the highest seq ever given and the number of the last forgetting; (0, 0) if empty."""
        rows = self._fetch(select(users.c.last_seq, users.c.last_forgetting).where(users.c.name == self.user))
        return (rows[0].last_seq, rows[0].last_forgetting) if rows else (0, 0)

    def id_at(self, seq: int, forgetting: int) -> str:
        """Return the ids of the turn at ``seq`` (also if forgotten since) and of that forgetting's turn.

        They tell this journal from one restored from a backup and written on.
        """
        here = select(turns.c.id).where((turns.c.user == self.user) & (turns.c.seq == seq))
        gone = select(forgettings.c.turn_id).where(forgettings.c.user == self.user)
        rows = self._fetch(here) or (self._fetch(gone.where(forgettings.c.seq == seq)) if seq else [])
        rows = [*rows[:1], *self._fetch(gone.where(forgettings.c.number == forgetting))]
        return " ".join(str(row[0]) for row in rows)

    def checkpoints(self) -> list[tuple[str, str, int]]:
        """Return backend, machine and last seq of the states stored for this journal, on whatever machine."""
        wanted = select(checkpoints).where(checkpoints.c.user == self.user).order_by(checkpoints.c.backend)
        return [(row.backend, row.host, row.seq) for row in self._fetch(wanted)]

    def count(self) -> int:
        """Return the number of turns that are not forgotten."""
        return int(
            self._fetch(select(func.count().label("n")).select_from(turns).where(turns.c.user == self.user))[
                0
            ].n
        )

    def check(self) -> list[str]:
        """Return what the database's own integrity check finds wrong; an empty list is good."""
        if self._engine.dialect.name != "sqlite":
            return []
        with translated(self._where), self._engine.connect() as connection:
            said = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check").all()]
        return [] if said == ["ok"] else said

    # inside

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its beginning and commits at its end."""
        with (
            translated(self._where),
            self._engine.connect().execution_options(begin="BEGIN IMMEDIATE") as connection,
            connection.begin(),
        ):
            yield connection

    def _fetch(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with translated(self._where), self._engine.connect() as connection:
            return connection.execute(query).all()

    def _lock_user(self, connection: Connection) -> int:
        """Make sure the user has a row, lock it, and return the last seq given."""
        row = connection.execute(
            select(users.c.last_seq).where(users.c.name == self.user).with_for_update()
        ).first()
        if row is None:
            now = _stamp(datetime.now(UTC))
            connection.execute(
                insert(users).values(name=self.user, created_at=now, last_seq=0, last_forgetting=0)
            )
            return 0
        return int(row[0])

    def _last_seq(self, connection: Connection) -> int:
        return int(connection.execute(select(users.c.last_seq).where(users.c.name == self.user)).scalar_one())

    def _set_user(self, connection: Connection, **values: int) -> None:
        connection.execute(update(users).where(users.c.name == self.user).values(**values))

    def _add_sessions(self, connection: Connection, created: dict[str, datetime]) -> None:
        known = select(sessions.c.name).where(
            (sessions.c.user == self.user) & sessions.c.name.in_(list(created))
        )
        present = set(connection.execute(known).scalars())
        rows = [
            {"user": self.user, "name": name, "created_at": _stamp(when)}
            for name, when in created.items()
            if name not in present
        ]
        if rows:
            connection.execute(insert(sessions), rows)

    def _add_forgettings(self, connection: Connection, made: Iterable[Forgetting]) -> None:
        rows = [
            {
                "user": self.user,
                "number": one.number,
                "seq": one.seq,
                "turn_id": one.turn_id,
                "forgotten_at": _stamp(one.forgotten_at),
            }
            for one in made
        ]
        if rows:
            connection.execute(insert(forgettings), rows)
            self._set_user(connection, last_forgetting=rows[-1]["number"])  # type: ignore[arg-type]

    def _row(self, turn: Turn) -> dict[str, object]:
        return {
            "user": self.user,
            "seq": turn.seq,
            "id": turn.id,
            "session": turn.session,
            "role": turn.role,
            "speaker": turn.speaker,
            "text": turn.text,
            "created_at": _stamp(turn.created_at),
            "in_view": json.dumps(turn.in_view),
            "derived": turn.derived,
        }


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="microseconds")


def _pages(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Split a list so that no statement has more bound values than a database takes."""
    return (items[start : start + _PAGE] for start in range(0, len(items), _PAGE))


def _turn(row: Row[Any]) -> Turn:
    return Turn(
        seq=row.seq,
        id=row.id,
        session=row.session,
        role=row.role,
        text=row.text,
        created_at=datetime.fromisoformat(row.created_at),
        speaker=row.speaker,
        in_view=tuple(json.loads(row.in_view)),
        derived=row.derived,
    )
