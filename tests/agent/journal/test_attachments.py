"""Attachments: bytes that belong to a turn, read one by one, proved, and gone with their turn."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from memagent.agent.home import Home
from memagent.agent.journal import Journal, NewAttachment, NewTurn
from memagent.agent.journal.chain import turn_leaf
from memagent.agent.journal.records import MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, MAX_TURN_ATTACHMENT_BYTES
from memagent.agent.memory import open_journal
from memagent.backends.errors import InputError, NotFoundError, StorageError
from memagent.backends.records import Attachment
from tests.agent.memories import bytes_of
from tests.conftest import OpenMemory

PATTERN = bytes.fromhex("d1e5f00dc0ffee11235813213455899a")
PNG = NewAttachment("image/png", b"\x89PNG\r\n" + PATTERN * 3)
NOTE = NewAttachment("text/plain", b"a note\n")


@pytest.fixture
def journal(home: Home) -> Iterator[Journal]:
    with open_journal(home, "ana") as opened:
        yield opened


@contextmanager
def statements() -> Iterator[list[str]]:
    """Collect the SQL statements that run meanwhile."""
    collected: list[str] = []

    def collect(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        collected.append(statement)

    event.listen(Engine, "before_cursor_execute", collect)
    yield collected
    event.remove(Engine, "before_cursor_execute", collect)


# storing and reading


def test_attachments_come_back_whole_and_in_order(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        turn = journal.append("monday", "user", "Two files.", attachments=[PNG, NOTE, PNG])
    assert turn.attachments == (PNG.descriptor(), NOTE.descriptor(), PNG.descriptor())
    assert NOTE.descriptor() == Attachment("text/plain", 7, hashlib.sha256(b"a note\n").hexdigest())
    with open_journal(home, "ana", read_only=True) as journal:
        assert list(journal.turns()) == [turn]
        assert [journal.attachment(1, position) for position in range(3)] == [
            PNG.content,
            NOTE.content,
            PNG.content,
        ]


def test_every_way_to_read_turns_gives_their_attachments(journal: Journal) -> None:
    journal.extend([NewTurn("monday", "user", f"turn {place}") for place in range(1, 1200)])
    turn = journal.append("tuesday", "user", "With a file.", attachments=[PNG])
    assert turn.attachments == (PNG.descriptor(),)
    assert list(journal.turns(after=1199)) == [turn]
    assert list(journal.turns(session="tuesday")) == [turn]
    assert journal.get([3, 1200])[1] == turn
    assert journal.recent(5, "tuesday") == [turn]
    assert list(journal.matching("with a file")) == [turn]
    assert [entry.turn for entry in journal.entries()][-1] == turn
    with journal.snapshot() as reader:
        assert reader.get([1200]) == [turn]
        assert reader.attachment(1200, 0) == PNG.content
    assert journal.audit() == []


def test_turns_of_one_commit_keep_their_own_attachments(journal: Journal) -> None:
    journal.extend(
        [
            NewTurn("monday", "user", "one", attachments=(PNG,)),
            NewTurn("monday", "user", "two"),
            NewTurn("monday", "user", "three", attachments=(NOTE, PNG)),
        ]
    )
    assert [len(turn.attachments) for turn in journal.turns()] == [1, 0, 2]
    assert (journal.attachment(1, 0), journal.attachment(3, 0)) == (PNG.content, NOTE.content)


def test_reading_turns_reads_no_content_and_asks_no_further_where_there_are_none(journal: Journal) -> None:
    journal.append("monday", "user", "without")
    journal.append("tuesday", "user", "with", attachments=[PNG])
    with statements() as without:
        list(journal.turns(session="monday"))
    with statements() as with_one:
        list(journal.turns(session="tuesday"))
    assert not [statement for statement in without if "FROM attachments" in statement]
    (query,) = [statement for statement in with_one if "FROM attachments" in statement]
    assert "content" not in query


@pytest.mark.parametrize(("seq", "position"), [(1, 1), (1, -1), (2, 0), (99, 0)])
def test_an_attachment_that_is_not_there_is_not_found(seq: int, position: int, journal: Journal) -> None:
    journal.append("monday", "user", "with", attachments=[PNG])
    journal.append("monday", "user", "without")
    with pytest.raises(NotFoundError, match=f"no attachment of turn {seq} at position '{position}'"):
        journal.attachment(seq, position)


def test_users_of_one_database_do_not_see_each_others_attachments(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    with Journal(url, "ana") as ana, Journal(url, "bob") as bob:
        ana.append("monday", "user", "hers", attachments=[PNG])
        bob.append("monday", "user", "his", attachments=[NOTE])
        assert (ana.attachment(1, 0), bob.attachment(1, 0)) == (PNG.content, NOTE.content)
        bob.forget([1])
        assert ana.attachment(1, 0) == PNG.content
        assert ana.audit() == bob.audit() == []


# refusing


@pytest.mark.parametrize(
    ("attachments", "fault"),
    [
        ([NOTE] * (MAX_ATTACHMENTS + 1), "has 9 attachments; 8 at most"),
        ([NOTE, NewAttachment("text/plain", b"")], r"Attachment 1 \(text/plain\) is empty"),
        (
            [NewAttachment("image/png", bytes(MAX_ATTACHMENT_BYTES + 1))],
            "Attachment 0 .* has 16,777,217 bytes; 16,777,216 at most",
        ),
        (
            [NewAttachment("image/png", bytes(MAX_TURN_ATTACHMENT_BYTES // 3 + 1))] * 3,
            "have 33,554,433 bytes together; 33,554,432 at most",
        ),
    ],
    ids=["too many", "empty", "too large", "too large together"],
)
def test_attachments_past_a_limit_are_refused_and_nothing_stored(
    attachments: list[NewAttachment], fault: str, journal: Journal
) -> None:
    with pytest.raises(InputError, match=fault):
        journal.append("monday", "user", "hello", attachments=attachments)
    assert (journal.last(), journal.sessions()) == ((0, 0), [])


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "image",
        "image/",
        "/png",
        "Image/png",
        "image/PNG",
        "image/png/x",
        "image/p ng",
        "image/png\n",
        "text/plain; charset=utf-8",
        "-x/y",
        "b\u00ebeld/png",
        f"image/{'x' * 128}",
    ],
)
def test_a_media_type_that_is_none_is_refused(media_type: str, journal: Journal) -> None:
    with pytest.raises(InputError, match="media type .* expected type/subtype"):
        journal.append("monday", "user", "hello", attachments=[NewAttachment(media_type, b"x")])
    assert journal.count() == 0


@pytest.mark.parametrize("media_type", ["image/svg+xml", "application/vnd.ms-excel", "x/a!#$&-^_.+", "1/2"])
def test_every_name_of_rfc_6838_is_a_media_type(media_type: str, journal: Journal) -> None:
    turn = journal.append("monday", "user", "hello", attachments=[NewAttachment(media_type, b"x")])
    assert list(journal.turns()) == [turn]


def test_attachments_at_the_limits_are_kept(journal: Journal) -> None:
    largest = NewAttachment("image/png", bytes(MAX_ATTACHMENT_BYTES))
    journal.append("monday", "user", "large", attachments=[largest] * 2)
    journal.append("monday", "user", "many", attachments=[NOTE] * MAX_ATTACHMENTS)
    assert [len(turn.attachments) for turn in journal.turns()] == [2, 8]
    assert len(journal.attachment(1, 1)) == MAX_ATTACHMENT_BYTES
    assert journal.audit() == []


def test_a_commit_that_fails_keeps_no_attachment(journal: Journal, home: Home) -> None:
    with pytest.raises(StorageError, match="Nothing of this step was stored"):
        journal.extend(
            [
                NewTurn("new", "user", "one", id="f" * 32, attachments=(PNG,)),
                NewTurn("new", "user", "two", id="f" * 32),
            ]
        )
    with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
        assert connection.execute("SELECT count(*) FROM attachments").fetchone() == (0,)


# proving


def fill(journal: Journal) -> None:
    journal.append("monday", "user", "one file", attachments=[PNG])
    journal.append("monday", "user", "two files", attachments=[PNG, NOTE])
    journal.append("monday", "user", "no file")
    journal.append("monday", "user", "forgotten with its file", attachments=[NOTE])
    journal.forget([4])


ADDED = "INSERT INTO attachments SELECT user, {seq}, {position}, media_type, size, sha256, content FROM attachments WHERE seq = 1"
CHANGES = {
    "content": (
        ["UPDATE attachments SET content = X'00' WHERE seq = 2 AND position = 1"],
        "attachment 1 of turn 2 is damaged",
    ),
    "content of the same length": (
        ["UPDATE attachments SET content = 'a nose' || char(10) WHERE seq = 2 AND position = 1"],
        "attachment 1 of turn 2 is damaged",
    ),
    "one bit of the content": (
        ["UPDATE attachments SET content = X'6120736f74650a' WHERE seq = 2 AND position = 1"],
        "attachment 1 of turn 2 is damaged",
    ),
    "content and digest": (
        [
            (
                "UPDATE attachments SET (size, sha256, content) = (SELECT size, sha256, content FROM attachments "
                "WHERE seq = 2 AND position = 1) WHERE seq = 1"
            )
        ],
        "Turn 1 or one of its attachments was changed",
    ),
    "media type": (
        ["UPDATE attachments SET media_type = 'text/html' WHERE seq = 1"],
        "Turn 1 or one of its attachments was changed",
    ),
    "size that is text": (
        ["UPDATE attachments SET size = 'x' WHERE seq = 1"],
        "attachment 0 of turn 1 is damaged",
    ),
    "order": (
        [
            "UPDATE attachments SET position = 9 WHERE seq = 2 AND position = 0",
            "UPDATE attachments SET position = 0 WHERE seq = 2 AND position = 1",
            "UPDATE attachments SET position = 1 WHERE seq = 2 AND position = 9",
        ],
        "Turn 2 or one of its attachments was changed",
    ),
    "one missing": (
        ["DELETE FROM attachments WHERE seq = 2 AND position = 0"],
        "Attachments of turn 2 are missing: it has 1 of 2.",
    ),
    "all missing": (["DELETE FROM attachments"], "Attachments of turn 1 are missing: it has 0 of 1."),
    "all missing and not counted": (
        ["DELETE FROM attachments WHERE seq = 1", "UPDATE turns SET attachment_count = 0 WHERE seq = 1"],
        "Turn 1 was changed",
    ),
    "another position": (
        ["UPDATE attachments SET position = 7 WHERE seq = 1"],
        "Attachment 7 of turn 1 belongs to no turn",
    ),
    "added": ([ADDED.format(seq=2, position=2)], "Attachment 2 of turn 2 belongs to no turn"),
    "added and counted": (
        [ADDED.format(seq=2, position=2), "UPDATE turns SET attachment_count = 3 WHERE seq = 2"],
        "Turn 2 or one of its attachments was changed",
    ),
    "added to a turn without": (
        [ADDED.format(seq=3, position=0)],
        "Attachment 0 of turn 3 belongs to no turn",
    ),
    "of no turn": ([ADDED.format(seq=9, position=0)], "Attachment 0 of turn 9 belongs to no turn"),
    "back after forgetting": (
        [ADDED.format(seq=4, position=0)],
        "Attachment 0 of turn 4 was forgotten with its turn, and is back",
    ),
    "count that is text": (["UPDATE turns SET attachment_count = 'x' WHERE seq = 1"], "turn 1 is damaged"),
}


@pytest.mark.parametrize(("changes", "fault"), CHANGES.values(), ids=CHANGES.keys())
def test_the_audit_names_every_change(changes: list[str], fault: str, home: Home) -> None:
    with open_journal(home, "ana") as journal:
        fill(journal)
        assert journal.audit() == []
    with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
        for change in changes:
            connection.execute(change)
        connection.commit()
    with open_journal(home, "ana") as journal:
        faults = journal.audit()
    assert any(fault in found for found in faults), faults


def test_the_audit_finds_attachments_past_a_page(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memagent.agent.journal.audit.PAGE", 3)
    with open_journal(home, "ana") as journal:
        journal.extend([NewTurn("s", "user", f"turn {n}", attachments=(NOTE,) * (n % 5)) for n in range(12)])
        assert journal.audit() == []
    with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
        connection.execute("UPDATE attachments SET content = X'00'")
        connection.commit()
    with open_journal(home, "ana") as journal:
        faults = journal.audit()
    assert len(faults) == 21
    assert all("is damaged (it has 1 bytes instead of 7)" in fault for fault in faults[:20])


def test_damaged_bytes_are_never_handed_out(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        fill(journal)
    with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
        connection.execute("UPDATE attachments SET content = ? WHERE seq = 1", (PNG.content[::-1],))
        connection.commit()
    with open_journal(home, "ana") as journal:
        assert journal.get([1])[0].attachments == (PNG.descriptor(),)
        with pytest.raises(StorageError, match="attachment 0 of turn 1 is damaged"):
            journal.attachment(1, 0)
        assert journal.attachment(2, 0) == PNG.content


# forgetting


def test_a_forgotten_attachment_is_in_no_byte_of_any_file(home: Home, open_memory: OpenMemory) -> None:
    large = NewAttachment("image/png", PATTERN * 40_000)
    memory = open_memory()
    for place in range(60):
        memory.remember("monday", "user", f"filler {place} " * 30)
    seqs = [
        memory.remember("monday", "user", "The whiteboard.", attachments=[PNG, large]).seq,
        memory.remember("monday", "user", "The whiteboard again.", attachments=[NOTE, PNG]).seq,
    ]
    memory.checkpoint()
    for place in range(60):
        memory.remember(
            "tuesday", "user", f"filler {place} " * 30, attachments=[NewAttachment("a/b", b"kept")]
        )
    needles = [PATTERN, PNG.descriptor().sha256.encode(), large.descriptor().sha256.encode()]
    needles += [bytes.fromhex(digest.decode()) for digest in needles[1:]]
    before = bytes_of(home.root)
    assert all(needle in before for needle in needles[:3])
    memory.forget(seqs)
    after = bytes_of(home.root)
    assert [needle for needle in needles if needle in after] == []
    assert memory.journal.audit() == []
    with pytest.raises(NotFoundError):
        memory.journal.attachment(seqs[0], 0)
    memory.close()
    assert not [needle for needle in needles if needle in bytes_of(home.root)]


def test_a_guess_at_a_forgotten_attachment_cannot_be_confirmed(home: Home, journal: Journal) -> None:
    turn = journal.append("monday", "user", "The whiteboard.", attachments=[PNG])
    (entry,) = journal.entries()
    assert entry.salt is not None
    assert turn_leaf(entry.salt, turn) == entry.leaf
    journal.forget([1])
    (entry,) = journal.entries()
    assert (entry.turn, entry.salt) == (None, None)
    with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        values = [str(row) for table in tables for row in connection.execute(f"SELECT * FROM {table}")]  # noqa: S608
    assert not [value for value in values if PNG.descriptor().sha256 in value]


def test_a_reply_with_attachments_goes_with_the_turn_that_it_saw(open_memory: OpenMemory, home: Home) -> None:
    memory = open_memory()
    memory.remember("monday", "user", "Draw a map.")
    memory.remember("monday", "assistant", "Here it is.", in_view=(1,), recalled=(1,), attachments=[PNG])
    assert memory.forget([1]).replies == (2,)
    assert PATTERN not in bytes_of(home.root)


# copies


def test_a_memory_that_is_opened_again_still_recalls_a_turn_with_attachments(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", "The whiteboard after the meeting.", attachments=[PNG])
    memory.checkpoint()
    memory.close()
    assert [item.seqs for item in open_memory().recall("whiteboard meeting")] == [(1,)]


def test_a_backup_holds_the_attachments(home: Home, tmp_path: Path) -> None:
    with open_journal(home, "ana") as journal:
        fill(journal)
        journal.backup(tmp_path / "copy.sqlite3")
    shutil.rmtree(home.root)
    with Journal(tmp_path / "copy.sqlite3", "ana") as copy:
        assert copy.attachment(2, 1) == NOTE.content
        assert copy.audit() == []
