"""Read and change one user's journal within one database transaction.

The caller commits, and then advances the high-water mark. No other file is touched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import Connection, delete, func, insert, select, update

from memagent.agent.journal import item_index
from memagent.agent.journal.attachments import attachment_rows, read_content, read_descriptors
from memagent.agent.journal.chain import (
    GENESIS,
    forgetting_head,
    new_salt,
    timestamp,
    turn_head,
    turn_leaf,
)
from memagent.agent.journal.items import is_item
from memagent.agent.journal.records import (
    MAX_PINS,
    Extent,
    Forgetting,
    NewAttachment,
    NewTurn,
    Tombstone,
    Unfinished,
)
from memagent.agent.journal.rows import LARGEST_SEQ, DamagedRowError, pages, row_turn, seq_pages, turn_row
from memagent.agent.journal.schema import (
    attachments,
    chain,
    checkpoints,
    forgettings,
    pins,
    sessions,
    turns,
    unfinished,
    users,
)
from memagent.backends.errors import InputError
from memagent.backends.records import Turn

# An import keeps seqs up to here, so that a journal never comes near the largest one.
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

    def extend(self, new: Sequence[NewTurn | Tombstone], new_seqs: dict[int, int] | None) -> list[Turn]:
        """Add turns and tombstones; see ``Journal.extend``."""
        new_turns: list[Turn] = []
        rows: list[dict[str, object]] = []
        file_rows: list[dict[str, object]] = []
        links: list[dict[str, object]] = []
        pin_rows: list[dict[str, object]] = []
        item_rows: list[dict[str, object]] = []
        tombstones: list[Tombstone] = []
        for entry in new:
            if isinstance(entry, NewTurn):
                turn = _numbered(entry, self._next_seq(entry.seq), new_seqs)
                salt = entry.salt or new_salt()
                new_turns.append(turn)
                rows.append(turn_row(self.user, turn, salt))
                if turn.attachments:
                    file_rows += attachment_rows(self.user, turn, entry.attachments)
                    if item_row := item_index.index_row(self.user, turn, entry):
                        item_rows.append(item_row)
                links.append(self._link(turn.seq, turn.id, turn_leaf(salt, turn)))
                if entry.pinned and self.count_pins() + len(pin_rows) < MAX_PINS:
                    pin_rows.append({"user": self.user, "seq": turn.seq})
            else:
                tombstones.append(entry)
                if self._seq < entry.seq <= LARGEST_KEPT_SEQ:
                    self._seq = entry.seq
                    if entry.leaf is not None:
                        links.append(self._link(entry.seq, entry.turn_id, entry.leaf))
        self.add_sessions({turn.session: turn.created_at for turn in reversed(new_turns)})
        for table, values in ((turns, rows), (attachments, file_rows), (chain, links), (pins, pin_rows)):
            if values:
                self.connection.execute(insert(table), values)
        item_index.insert_rows(self.connection, self.user, item_rows)
        self._add_forgettings(self._without_taken_seqs(tombstones))
        return new_turns

    def add_sessions(self, created: dict[str, datetime]) -> None:
        """Note when sessions began; a session already there keeps its time."""
        query = select(sessions.c.name).where(
            (sessions.c.user == self.user) & sessions.c.name.in_(list(created))
        )
        known_names = set(self.connection.execute(query).scalars())
        rows = [
            {"user": self.user, "name": name, "created_at": timestamp(when)}
            for name, when in created.items()
            if name not in known_names
        ]
        if rows:
            self.connection.execute(insert(sessions), rows)

    def has_all(self, seqs: Sequence[int]) -> bool:
        """Say whether all these turns are here, none of them forgotten."""
        chosen = (turns.c.user == self.user) & turns.c.seq.in_(seqs)
        count = self.connection.execute(select(func.count()).select_from(turns).where(chosen)).scalar_one()
        return bool(count == len(set(seqs)))

    def forget(self, seqs: Collection[int]) -> list[Forgetting]:
        """Remove turns and leave tombstones; seqs not here are ignored."""
        tombstones: list[Tombstone] = []
        now = datetime.now(UTC)
        for page in seq_pages(seqs):
            chosen = (turns.c.user == self.user) & turns.c.seq.in_(page)
            ids = select(turns.c.seq, turns.c.id).where(chosen).order_by(turns.c.seq)
            tombstones += [Tombstone(row.seq, row.id, now) for row in self.connection.execute(ids)]
            self.connection.execute(delete(turns).where(chosen))
            self.unpin(page)
            files = (attachments.c.user == self.user) & attachments.c.seq.in_(page)
            self.connection.execute(delete(attachments).where(files))
            item_index.remove_rows(self.connection, self.user, page)
        return self._add_forgettings(tombstones)

    def pin(self, seqs: Collection[int]) -> None:
        """Pin turns that are here and not pinned yet; see ``Journal.pin``."""
        self.unpin(seqs)
        for page in seq_pages(seqs):
            own_turns = select(turns.c.user, turns.c.seq).where(
                (turns.c.user == self.user) & turns.c.seq.in_(page)
            )
            self.connection.execute(insert(pins).from_select(["user", "seq"], own_turns))

    def unpin(self, seqs: Collection[int]) -> None:
        """Unpin turns; seqs that are not pinned are ignored."""
        for page in seq_pages(seqs):
            self.connection.execute(delete(pins).where((pins.c.user == self.user) & pins.c.seq.in_(page)))

    def count_pins(self) -> int:
        """Return the number of pinned turns."""
        query = select(func.count()).select_from(pins).where(pins.c.user == self.user)
        return int(self.connection.execute(query).scalar_one())

    def correct(self, seq: int, text: str) -> Turn:
        """Add a turn that takes over all of another but its text; the other one stays.

        Raises:
            InputError: there is no such turn, or it is an item of a store.
            DamagedRowError: an attachment is damaged.
        """
        query = select(turns).where((turns.c.user == self.user) & (turns.c.seq == seq))
        row = self.connection.execute(query).first() if 0 < seq <= LARGEST_SEQ else None
        if row is None:
            raise InputError(f"There is no turn {seq}; nothing was changed.")
        old = row_turn(row, read_descriptors(self.connection, self.user, [row]).get(seq, ()))
        if is_item(old):
            raise InputError(
                f"Turn {seq} is an item of a store: its text is made of the item's value. Put the corrected value under the "
                "same key instead. Nothing was changed."
            )
        pin = select(pins).where((pins.c.user == self.user) & (pins.c.seq == seq))
        new = NewTurn(
            old.session,
            old.role,
            text,
            old.speaker,
            old.created_at,
            old.in_view,
            old.derived,
            old.recalled,
            tuple(
                NewAttachment(attachment.media_type, self._attachment_content(seq, position))
                for position, attachment in enumerate(old.attachments)
            ),
            pinned=self.connection.execute(pin).first() is not None,
        )
        self.unpin([seq])  # its place is the new one's
        return self.extend([new], None)[0]

    def _attachment_content(self, seq: int, position: int) -> bytes:
        """Read the bytes of a turn's attachment from the journal.

        Raises:
            DamagedRowError: the bytes are missing, or are not those that were stored.
        """
        content = read_content(self.connection, self.user, seq, position)
        if content is None:  # its descriptor is there
            raise DamagedRowError(f"attachment {position} of turn {seq}", ValueError("it has no content"))
        return content

    def note_unfinished(self, states: Collection[tuple[str, str]]) -> None:
        """Note that the journal's file and stored states must follow the forgettings up to the last one.

        Args:
            states: backend and place of each.
        """
        for backend, place in sorted({("", ""), *states}):
            self._note_part(backend, place)

    def stored_states(self) -> set[tuple[str, str]]:
        """Return backend and place of every stored state that was noted."""
        query = select(checkpoints.c.backend, checkpoints.c.place).where(checkpoints.c.user == self.user)
        return {(row.backend, row.place) for row in self.connection.execute(query)}

    def finish_part(self, part: Unfinished) -> None:
        """Note that a part of forgetting is done, up to its number."""
        self.connection.execute(
            delete(unfinished)
            .filter_by(user=self.user, backend=part.backend, place=part.place)
            .where(unfinished.c.forgetting <= part.forgetting)
        )

    def add_checkpoint(self, backend: str, place: str, extent: Extent, manifest_sha256: str) -> None:
        """Note a stored state that was not noted before.

        If turns were forgotten while it was being stored, it is still to be cleared of them.
        """
        if extent.forgetting < self._forgetting:
            self._note_part(backend, place)
        values = {
            "user": self.user,
            "backend": backend,
            "place": place,
            "seq": extent.seq,
            "forgetting": extent.forgetting,
            "manifest_sha256": manifest_sha256,
            "created_at": timestamp(datetime.now(UTC)),
        }
        self.connection.execute(insert(checkpoints).values(**values))

    def drop_checkpoint(self, backend: str, place: str) -> None:
        """Remove the note of a stored state, if there is one."""
        own_row = {"user": self.user, "backend": backend, "place": place}
        self.connection.execute(delete(checkpoints).filter_by(**own_row))

    def delete_session(self, name: str) -> None:
        """Delete the name of a session."""
        own_row = (sessions.c.user == self.user) & (sessions.c.name == name)
        self.connection.execute(delete(sessions).where(own_row))

    def reserve(self, seq: int) -> None:
        """Give new turns seqs above this one."""
        self._seq = max(self._seq, min(seq, LARGEST_KEPT_SEQ))

    def _note_part(self, backend: str, place: str) -> None:
        """Note that one part must follow the forgettings up to the last one."""
        key = {"user": self.user, "backend": backend, "place": place}
        self.connection.execute(delete(unfinished).filter_by(**key))
        self.connection.execute(insert(unfinished).values(**key, forgetting=self._forgetting))

    def _next_seq(self, requested: int | None) -> int:
        """Return the requested seq if it is above the last one and at most ``LARGEST_KEPT_SEQ``, else the next number."""
        if requested is not None and self._seq < requested <= LARGEST_KEPT_SEQ:
            self._seq = requested
        elif self._seq >= LARGEST_SEQ:
            raise InputError(f"The journal has no numbers left after {self._seq}. Nothing was stored.")
        else:
            self._seq += 1
        return self._seq

    def _link(self, seq: int, turn_id: str, leaf: bytes) -> dict[str, object]:
        """Lengthen the chain and return its new link as a row."""
        self._head = turn_head(self._head, seq, turn_id, leaf)
        return {"user": self.user, "seq": seq, "turn_id": turn_id, "leaf": leaf, "head": self._head}

    def _without_taken_seqs(self, tombstones: Sequence[Tombstone]) -> list[Tombstone]:
        """Set the seq of a tombstone to 0 where another turn has it here."""
        taken_seqs: set[int] = set()
        for page in pages([tombstone.seq for tombstone in tombstones]):
            query = select(turns.c.seq).where((turns.c.user == self.user) & turns.c.seq.in_(page))
            taken_seqs.update(self.connection.execute(query).scalars())
        return [
            replace(tombstone, seq=0) if tombstone.seq in taken_seqs else tombstone
            for tombstone in tombstones
        ]

    def _add_forgettings(self, tombstones: Iterable[Tombstone]) -> list[Forgetting]:
        """Number, chain and insert tombstones as forgettings."""
        new_forgettings: list[Forgetting] = []
        rows: list[dict[str, object]] = []
        for tombstone in tombstones:
            self._forgetting += 1
            forgetting = Forgetting(
                self._forgetting, tombstone.seq, tombstone.turn_id, tombstone.forgotten_at
            )
            new_forgettings.append(forgetting)
            self._forgetting_head = forgetting_head(self._forgetting_head, forgetting)
            rows.append(
                {
                    "user": self.user,
                    "number": forgetting.number,
                    "seq": forgetting.seq,
                    "turn_id": forgetting.turn_id,
                    "forgotten_at": timestamp(forgetting.forgotten_at),
                    "head": self._forgetting_head,
                }
            )
        if rows:
            self.connection.execute(insert(forgettings), rows)
        return new_forgettings


def _numbered(new: NewTurn, seq: int, new_seqs: dict[int, int] | None) -> Turn:
    """Make a turn of a new one, and note its seq in ``new_seqs``."""
    in_view, recalled = new.in_view, new.recalled
    if new_seqs is not None and new.seq is not None:
        new_seqs[new.seq] = seq
        in_view, recalled = (
            tuple(new_seqs[other] for other in seqs if other in new_seqs) for seqs in (in_view, recalled)
        )
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
        recalled=recalled,
        attachments=tuple(file.descriptor() for file in new.attachments),
    )
