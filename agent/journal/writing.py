"""The changes that one transaction makes to a user's journal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import Connection, delete, func, insert, select, update

from memagent.agent.journal.chain import (
    GENESIS,
    forgetting_head,
    new_salt,
    timestamp,
    turn_head,
    turn_leaf,
)
from memagent.agent.journal.records import Extent, Forgetting, NewTurn, Tombstone
from memagent.agent.journal.rows import LARGEST_SEQ, pages, turn_row
from memagent.agent.journal.schema import chain, checkpoints, forgettings, sessions, turns, unfinished, users
from memagent.backends.errors import InputError
from memagent.backends.records import Turn

# A seq asked for by an import is kept up to here, so that a journal never comes near the largest one.
LARGEST_KEPT_SEQ = 2**52


class Transaction:
    """A transaction that holds the user's row from its beginning, so that numbers and chains go on from there.

    Args:
        connection: in a transaction that commits when all is done.
        user: whose journal; gets a row on first use.
    """

    def __init__(self, connection: Connection, user: str) -> None:
        self.connection = connection
        self.user = user
        row = connection.execute(select(users).where(users.c.name == user).with_for_update()).first()
        if row is None:
            now = timestamp(datetime.now(UTC))
            connection.execute(insert(users).values(name=user, created_at=now, last_seq=0, last_forgetting=0))
        self._seq: int = row.last_seq if row else 0
        self._head: bytes = row.head if row else GENESIS
        self._forgetting: int = row.last_forgetting if row else 0
        self._forgetting_head: bytes = row.forgetting_head if row else GENESIS

    def finish(self) -> Extent:
        """Write how far the journal reaches now, and return it."""
        values = {
            "last_seq": self._seq,
            "head": self._head,
            "last_forgetting": self._forgetting,
            "forgetting_head": self._forgetting_head,
        }
        self.connection.execute(update(users).where(users.c.name == self.user).values(**values))
        return Extent(self._seq, self._head.hex(), self._forgetting, self._forgetting_head.hex())

    def extend(self, new: Sequence[NewTurn | Tombstone], moved: dict[int, int] | None) -> list[Turn]:
        """Add turns and tombstones; see ``Journal.extend``."""
        made: list[Turn] = []
        rows: list[dict[str, object]] = []
        links: list[dict[str, object]] = []
        tombstones: list[Tombstone] = []
        for entry in new:
            if isinstance(entry, NewTurn):
                turn = _numbered(entry, self._next_seq(entry.seq), moved)
                salt = entry.salt or new_salt()
                made.append(turn)
                rows.append(turn_row(self.user, turn, salt))
                links.append(self._link(turn.seq, turn.id, turn_leaf(salt, turn)))
            else:
                tombstones.append(entry)
                if self._seq < entry.seq <= LARGEST_KEPT_SEQ:
                    self._seq = entry.seq
                    if entry.leaf is not None:
                        links.append(self._link(entry.seq, entry.turn_id, entry.leaf))
        self.add_sessions({turn.session: turn.created_at for turn in reversed(made)})
        for table, values in ((turns, rows), (chain, links)):
            if values:
                self.connection.execute(insert(table), values)
        self._add_forgettings(self._untaken(tombstones))
        return made

    def add_sessions(self, created: dict[str, datetime]) -> None:
        """Note when sessions began; a session already there keeps its time."""
        known = select(sessions.c.name).where(
            (sessions.c.user == self.user) & sessions.c.name.in_(list(created))
        )
        present = set(self.connection.execute(known).scalars())
        rows = [
            {"user": self.user, "name": name, "created_at": timestamp(when)}
            for name, when in created.items()
            if name not in present
        ]
        if rows:
            self.connection.execute(insert(sessions), rows)

    def has_all(self, seqs: Sequence[int]) -> bool:
        """Say whether all these turns are here, none of them forgotten."""
        chosen = (turns.c.user == self.user) & turns.c.seq.in_(seqs)
        here = self.connection.execute(select(func.count()).select_from(turns).where(chosen)).scalar_one()
        return bool(here == len(set(seqs)))

    def forget(self, seqs: Collection[int]) -> list[Forgetting]:
        """Remove turns and leave tombstones; seqs not here are ignored."""
        found: list[Tombstone] = []
        now = datetime.now(UTC)
        for page in pages(sorted(seq for seq in seqs if 0 < seq <= LARGEST_SEQ)):
            chosen = (turns.c.user == self.user) & turns.c.seq.in_(page)
            ids = select(turns.c.seq, turns.c.id).where(chosen).order_by(turns.c.seq)
            found += [Tombstone(row.seq, row.id, now) for row in self.connection.execute(ids)]
            self.connection.execute(delete(turns).where(chosen))
        return self._add_forgettings(found)

    def note_unfinished(self, states: Collection[tuple[str, str]]) -> None:
        """Note that the journal's file and stored states have to follow the forgettings up to the last one.

        Args:
            states: backend and place of each.
        """
        for backend, place in sorted({("", ""), *states}):
            key = {"user": self.user, "backend": backend, "place": place}
            self.connection.execute(delete(unfinished).filter_by(**key))
            self.connection.execute(insert(unfinished).values(**key, forgetting=self._forgetting))

    def stored_states(self) -> set[tuple[str, str]]:
        """Return backend and place of every stored state that was noted."""
        stored = select(checkpoints.c.backend, checkpoints.c.place).where(checkpoints.c.user == self.user)
        return {(row.backend, row.place) for row in self.connection.execute(stored)}

    def reserve(self, seq: int) -> None:
        """Give new turns seqs above this one."""
        self._seq = max(self._seq, min(seq, LARGEST_KEPT_SEQ))

    def _next_seq(self, wanted: int | None) -> int:
        if wanted is not None and self._seq < wanted <= LARGEST_KEPT_SEQ:
            self._seq = wanted
        elif self._seq >= LARGEST_SEQ:
            raise InputError(f"The journal has no numbers left after {self._seq}. Nothing was stored.")
        else:
            self._seq += 1
        return self._seq

    def _link(self, seq: int, turn_id: str, leaf: bytes) -> dict[str, object]:
        """Lengthen the chain and return its new link as a row."""
        self._head = turn_head(self._head, seq, turn_id, leaf)
        return {"user": self.user, "seq": seq, "turn_id": turn_id, "leaf": leaf, "head": self._head}

    def _untaken(self, tombstones: Sequence[Tombstone]) -> list[Tombstone]:
        """Take the seq from tombstones whose seq is another turn's here."""
        taken: set[int] = set()
        for page in pages([one.seq for one in tombstones]):
            held = select(turns.c.seq).where((turns.c.user == self.user) & turns.c.seq.in_(page))
            taken.update(self.connection.execute(held).scalars())
        return [replace(one, seq=0) if one.seq in taken else one for one in tombstones]

    def _add_forgettings(self, tombstones: Iterable[Tombstone]) -> list[Forgetting]:
        made: list[Forgetting] = []
        rows: list[dict[str, object]] = []
        for one in tombstones:
            self._forgetting += 1
            made.append(Forgetting(self._forgetting, one.seq, one.turn_id, one.forgotten_at))
            self._forgetting_head = forgetting_head(self._forgetting_head, made[-1])
            rows.append(
                {
                    "user": self.user,
                    "number": self._forgetting,
                    "seq": one.seq,
                    "turn_id": one.turn_id,
                    "forgotten_at": timestamp(one.forgotten_at),
                    "head": self._forgetting_head,
                }
            )
        if rows:
            self.connection.execute(insert(forgettings), rows)
        return made


def _numbered(new: NewTurn, seq: int, moved: dict[int, int] | None) -> Turn:
    """Make a turn of a new one, noting where it came to stand."""
    in_view = new.in_view
    if moved is not None and new.seq is not None:
        moved[new.seq] = seq
        in_view = tuple(moved[other] for other in in_view if other in moved)
    return Turn(
        seq=seq,
        id=new.id or uuid4().hex,
        session=new.session,
        role=new.role,
        text=new.text,
        created_at=(new.created_at or datetime.now(UTC)).astimezone(UTC),
        speaker=new.speaker,
        in_view=in_view,
        derived=new.derived,
    )
