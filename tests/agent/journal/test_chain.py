"""The chain of digests: it survives forgetting, confirms no guess, and tells every change."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memagent.agent.doctor import examine
from memagent.agent.home import Home
from memagent.agent.journal import Extent, Journal, NewTurn
from memagent.agent.journal.chain import GENESIS, new_salt, turn_leaf
from memagent.agent.journal.export import export, load, open_source
from memagent.agent.memory import open_journal
from memagent.backends.errors import JournalDamagedError
from memagent.backends.records import Attachment, Turn

WORD = "xyzzy-plugh-7319"


def fill(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        for place in range(1, 13):
            journal.append(f"s{place % 3}", "user" if place % 2 else "assistant", f"turn {place}")
        journal.forget([4, 5])
        journal.forget([9])
        journal.append("s1", "assistant", "turn 13", in_view=(1, 2), recalled=(2,))


def change(home: Home, *statements: str) -> None:
    with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def faults(home: Home) -> list[str]:
    with open_journal(home, "ana", trusting=True) as journal:
        return journal.audit()


def test_the_chain_goes_on_over_forgettings_and_restarts(home: Home) -> None:
    fill(home)
    with open_journal(home, "ana") as journal:
        before = journal.extent()
        assert (before.seq, before.forgetting) == (13, 3)
        assert journal.extent(7, 1).head != before.head
        journal.forget([1])
        assert journal.extent().head == before.head
        assert journal.extent().forgetting_head != before.forgetting_head
        assert journal.extent(13, 3) == before
        assert journal.audit() == []


def test_an_empty_journal_has_the_head_that_begins_every_chain(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        assert journal.extent() == Extent(0, GENESIS.hex(), 0, GENESIS.hex())
        assert journal.extent(0, 0) == journal.extent()


def test_the_same_words_never_have_the_same_leaf(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        turn = journal.append("monday", "user", "the same words")
        assert turn_leaf(new_salt(), turn) != turn_leaf(new_salt(), turn)
        leaves = [entry.leaf for entry in journal.entries()]
        journal.append("monday", "user", "the same words")
        assert len({entry.leaf for entry in journal.entries()}) == len(leaves) + 1


def test_nothing_of_a_forgotten_turn_is_left_to_try_a_guess_with(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        turn = journal.append("monday", "user", f"My word is {WORD}.")
        (entry,) = journal.entries()
        assert entry.salt is not None
        assert turn_leaf(entry.salt, turn) == entry.leaf
        journal.forget([1])
        (entry,) = journal.entries()
        assert (entry.turn, entry.salt) == (None, None)
    everything = b"".join(path.read_bytes() for path in home.root.rglob("*") if path.is_file())
    assert WORD.encode() not in everything
    # Who knows the whole turn would need the salt, which is in no file.
    with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
        digests = {
            bytes(row[0]) for row in connection.execute("SELECT leaf FROM chain UNION SELECT head FROM chain")
        }
    assert turn_leaf(b"\0" * 32, turn) not in digests


ATTACHMENTS = st.builds(
    Attachment, st.sampled_from(["a/b", "a/c"]), st.integers(1, 99), st.sampled_from(["0" * 64, "1" * 64])
)


@given(st.lists(ATTACHMENTS, max_size=3), st.lists(ATTACHMENTS, max_size=3))
def test_leaves_differ_wherever_attachments_or_their_order_do(
    some: list[Attachment], others: list[Attachment]
) -> None:
    turn = Turn(1, "0" * 32, "s", "user", "text", datetime(2024, 1, 1, tzinfo=UTC))
    leaves = [
        turn_leaf(b"s" * 32, replace(turn, attachments=tuple(attachments))) for attachments in (some, others)
    ]
    assert (leaves[0] == leaves[1]) == (some == others)


@given(
    st.sampled_from([field.name for field in fields(Turn) if field.name != "seq"]),
    st.data(),
)
def test_every_field_is_in_the_leaf(name: str, data: st.DataObject) -> None:
    turn = Turn(1, "0" * 32, "s", "user", "text", datetime(2024, 1, 1, tzinfo=UTC))
    value = {
        "in_view": data.draw(st.tuples(st.integers(1, 99))),
        "recalled": data.draw(st.tuples(st.integers(1, 99))),
        "attachments": data.draw(st.tuples(ATTACHMENTS)),
        "derived": True,
        "created_at": turn.created_at + timedelta(microseconds=data.draw(st.integers(1, 10**9))),
    }.get(
        name, data.draw(st.text(min_size=1).filter(lambda drawn: drawn not in (turn.id, "s", "user", "text")))
    )
    salt = b"s" * 32
    assert turn_leaf(salt, turn) != turn_leaf(salt, replace(turn, **{name: value}))  # type: ignore[arg-type]


BACK = (
    "INSERT INTO turns SELECT user, 5, turn_id, 's1', 'user', NULL, 'turn 5', forgotten_at, '[]', 0, zeroblob(32), NULL, 0 "
    "FROM forgettings WHERE seq = 5"
)
PUT_IN = (
    "INSERT INTO turns SELECT user, 14, 'ffff', 's1', 'user', NULL, 'never said', created_at, '[]', 0, zeroblob(32), NULL, 0 "
    "FROM turns WHERE seq = 1"
)
CHANGES = {
    "a text": (["UPDATE turns SET text = 'turn 77' WHERE seq = 7"], "Turn 7 was changed"),
    "a role": (["UPDATE turns SET role = 'system' WHERE seq = 7"], "Turn 7 was changed"),
    "a session": (["UPDATE turns SET session = 's2' WHERE seq = 7"], "Turn 7 was changed"),
    "a time": (
        ["UPDATE turns SET created_at = '2020-01-01T00:00:00.000000+00:00' WHERE seq = 7"],
        "Turn 7 was changed",
    ),
    "what was recalled": (["UPDATE turns SET recalled = '[1]' WHERE seq = 7"], "Turn 7 was changed"),
    "what was recalled is gone": (
        ["UPDATE turns SET recalled = NULL WHERE seq = 13"],
        "Turn 13 was changed",
    ),
    "a salt": (["UPDATE turns SET salt = zeroblob(32) WHERE seq = 7"], "Turn 7 was changed"),
    "no salt": (["UPDATE turns SET salt = NULL WHERE seq = 7"], "Turn 7 was changed"),
    "a turn gone": (["DELETE FROM turns WHERE seq = 7"], "Turn 7 is missing"),
    "two turns swapped": (
        [
            "UPDATE turns SET seq = 100 WHERE seq = 7",
            "UPDATE turns SET seq = 7 WHERE seq = 8",
            "UPDATE turns SET seq = 8 WHERE seq = 100",
        ],
        "Turn 7 was changed",
    ),
    "a forgotten turn back": (
        [BACK],
        "Turn 5 was forgotten, and is back",
    ),
    "a forgotten turn back without its tombstone": (
        [BACK, "DELETE FROM forgettings WHERE seq = 5"],
        "Forgetting 2 is missing",
    ),
    "a turn put in": (
        [PUT_IN],
        "Turn 14 stands in no chain",
    ),
    "a link": (["UPDATE chain SET leaf = zeroblob(32) WHERE seq = 3"], "The chain breaks at turn 3"),
    "the end cut off": (
        ["DELETE FROM turns WHERE seq = 13", "DELETE FROM chain WHERE seq = 13"],
        "The chain ends at turn 12",
    ),
    "the last forgetting gone": (["DELETE FROM forgettings WHERE number = 3"], "Turn 9 is missing"),
    "a tombstone": (["UPDATE forgettings SET turn_id = 'f' WHERE number = 2"], "Forgetting 2 was changed"),
    "the sessions": (["DELETE FROM sessions"], "The session of turn 1 is missing"),
}


@pytest.mark.parametrize(("statements", "fault"), CHANGES.values(), ids=CHANGES.keys())
def test_every_change_is_found_and_the_doctor_says_wrong(
    home: Home, statements: list[str], fault: str
) -> None:
    fill(home)
    assert faults(home) == []
    change(home, *statements)
    assert any(found.startswith(fault) for found in faults(home)), faults(home)
    assert any(finding.level == "wrong" and finding.area == "journal" for finding in examine(home))


def test_many_faults_are_cut_short(home: Home) -> None:
    with open_journal(home, "ana") as journal:
        journal.extend([NewTurn("s", "user", f"turn {place}") for place in range(100)])
    change(home, "UPDATE turns SET text = 'x'")
    audit_faults = faults(home)
    assert len(audit_faults) == 21
    assert audit_faults[-1] == "There may be more."


def test_a_claim_of_what_the_journal_had_is_confirmed_and_any_other_is_damage(home: Home) -> None:
    fill(home)
    with open_journal(home, "ana") as journal:
        claims = [journal.extent(seq, number) for seq in range(14) for number in range(4)]
        for claim in claims:
            journal.confirm(claim, "A test")
        wrong = [
            replace(claims[-1], seq=14),
            replace(claims[-1], forgetting=4),
            replace(claims[-1], head="0" * 64),
            replace(claims[-1], forgetting_head="0" * 64),
            replace(journal.extent(7, 1), seq=8),
        ]
        for claim in wrong:
            with pytest.raises(
                JournalDamagedError, match=r"A test covers.*Nothing was changed.*accept-loss --user ana"
            ):
                journal.confirm(claim, "A test")


def test_an_import_into_an_empty_journal_gives_the_same_heads(home: Home, tmp_path: Path) -> None:
    fill(home)
    text = io.StringIO()
    with open_journal(home, "ana") as journal:
        export(journal, text)
        (tmp_path / "export").write_text(text.getvalue())
        with (
            Journal(tmp_path / "copy", "ana") as copy,
            open_source(tmp_path / "export", tmp_path) as (source, _),
        ):
            load(copy, source)
            assert copy.extent().head == journal.extent().head
            assert copy.audit() == []
