"""Journals of older versions: brought up to date with everything in them, or left alone where that is not allowed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from memagent.agent.doctor import examine
from memagent.agent.home import Home
from memagent.agent.journal import NewAttachment
from memagent.agent.journal.chain import GENESIS
from memagent.agent.journal.schema import VERSION, OutdatedSchemaError
from memagent.agent.memory import open_journal

VERSION_1 = """
CREATE TABLE meta ("key" VARCHAR(64) NOT NULL, value TEXT NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE users (name VARCHAR(255) NOT NULL, created_at VARCHAR(40) NOT NULL, last_seq BIGINT NOT NULL,
    last_forgetting BIGINT NOT NULL, PRIMARY KEY (name));
CREATE TABLE sessions (user VARCHAR(255) NOT NULL, name VARCHAR(255) NOT NULL, created_at VARCHAR(40) NOT NULL,
    PRIMARY KEY (user, name));
CREATE TABLE turns (user VARCHAR(255) NOT NULL, seq BIGINT NOT NULL, id VARCHAR(32) NOT NULL,
    session VARCHAR(255) NOT NULL, role VARCHAR(16) NOT NULL, speaker TEXT, text TEXT NOT NULL,
    created_at VARCHAR(40) NOT NULL, in_view TEXT NOT NULL, derived BOOLEAN NOT NULL, PRIMARY KEY (user, seq));
CREATE UNIQUE INDEX turns_by_id ON turns (user, id);
CREATE INDEX turns_by_session ON turns (user, session, seq);
CREATE TABLE forgettings (user VARCHAR(255) NOT NULL, number BIGINT NOT NULL, seq BIGINT NOT NULL,
    turn_id VARCHAR(32) NOT NULL, forgotten_at VARCHAR(40) NOT NULL, PRIMARY KEY (user, number));
CREATE INDEX forgettings_by_turn ON forgettings (user, turn_id);
CREATE TABLE checkpoints (user VARCHAR(255) NOT NULL, backend VARCHAR(64) NOT NULL, host VARCHAR(255) NOT NULL,
    seq BIGINT NOT NULL, forgetting BIGINT NOT NULL, manifest_sha256 VARCHAR(64) NOT NULL,
    created_at VARCHAR(40) NOT NULL, PRIMARY KEY (user, backend, host));
INSERT INTO meta VALUES ('version', '1'), ('id', '0123456789abcdef0123456789abcdef');
INSERT INTO checkpoints VALUES ('ana', 'rag', 'somewhere', 3, 0, '', '2024-05-01T08:00:00.000000+00:00');
"""
WHEN = "2024-05-01T08:00:00.000000+00:00"


def schema_of(home: Home) -> dict[str, list[tuple[object, ...]]]:
    """Name and type of every column of Ana's journal, by table and index."""
    with closing(sqlite3.connect(home.journal_file("ana"))) as connection:
        names = connection.execute(
            "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        ).fetchall()
        return {
            f"{kind} {name}": sorted(row[1:3] for row in connection.execute(f"PRAGMA {kind}_info({name})"))
            for kind, name in names
        }


@pytest.fixture
def old(home: Home) -> Path:
    """A journal of version 1 with turns of two users, of whom one has forgotten two."""
    file = home.journal_file("ana")
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(VERSION_1)
        for user, count in (("ana", 2500), ("bob", 3)):
            connection.execute(
                "INSERT INTO users VALUES (?, ?, ?, ?)", (user, WHEN, count, 2 if user == "ana" else 0)
            )
            connection.execute("INSERT INTO sessions VALUES (?, 'monday', ?)", (user, WHEN))
            connection.executemany(
                "INSERT INTO turns VALUES (?, ?, ?, 'monday', 'user', NULL, ?, ?, '[]', 0)",
                [(user, seq, f"{user:x>16}{seq:016d}", f"{user} {seq}", WHEN) for seq in range(1, count + 1)],
            )
        connection.execute("DELETE FROM turns WHERE user = 'ana' AND seq IN (4, 7)")
        connection.executemany(
            "INSERT INTO forgettings VALUES ('ana', ?, ?, ?, ?)",
            [(1, 7, "7" * 32, WHEN), (2, 4, "4" * 32, WHEN)],
        )
        connection.commit()
    return file


@pytest.fixture
def version_2(home: Home) -> Path:
    """A journal that a memagent of schema version 2 wrote: five turns, of which the third is forgotten."""
    file = home.journal_file("ana")
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(Path(__file__).with_name("version_2.sql").read_text())
    return file


def test_a_journal_of_version_2_keeps_its_chain_as_it_is(home: Home, version_2: Path) -> None:
    with closing(sqlite3.connect(version_2)) as connection:
        links = connection.execute("SELECT * FROM chain ORDER BY seq").fetchall()
    with open_journal(home, "ana") as journal:
        assert [turn.seq for turn in journal.turns()] == [1, 2, 4, 5]
        assert (journal.get([5])[0].in_view, journal.get([5])[0].recalled) == ((1, 2, 4), ())
        assert journal.extent().head == links[-1][-1].hex()
        assert journal.audit() == []
        journal.append("tuesday", "user", "new", attachments=[NewAttachment("text/plain", b"new")])
        assert journal.append_reply("tuesday", "reply", [1, 6], derived=True, recalled=[1]) is not None
        assert journal.audit() == []
    with closing(sqlite3.connect(version_2)) as connection:
        assert connection.execute("SELECT * FROM chain WHERE seq < 6 ORDER BY seq").fetchall() == links
        assert connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchone() == (
            str(VERSION),
        )


def test_a_journal_of_version_2_has_the_schema_of_a_new_one_afterwards(
    home: Home, version_2: Path, tmp_path: Path
) -> None:
    open_journal(home, "ana").close()
    fresh = Home(tmp_path / "fresh", home.models)
    open_journal(fresh, "ana").close()
    assert schema_of(home) == schema_of(fresh)


def test_a_migration_from_version_2_that_is_cut_off_changes_nothing(
    home: Home, version_2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("memagent.agent.journal.migrations.MetaData.create_all", fail)
        with pytest.raises(KeyboardInterrupt):
            open_journal(home, "ana")
    with closing(sqlite3.connect(version_2)) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchone() == ("2",)
        assert "recalled" not in {row[1] for row in connection.execute("PRAGMA table_info(turns)")}
    with open_journal(home, "ana") as journal:
        assert journal.audit() == []


def test_an_old_journal_is_brought_up_to_date_with_every_turn_in_a_chain(home: Home, old: Path) -> None:
    with open_journal(home, "ana") as journal:
        assert journal.id == "0123456789abcdef0123456789abcdef"
        assert [turn.seq for turn in journal.turns()] == [seq for seq in range(1, 2501) if seq not in (4, 7)]
        assert [forgetting.seq for forgetting in journal.forgettings()] == [7, 4]
        assert len(list(journal.entries())) == 2498
        assert journal.extent().forgetting_head != GENESIS.hex()
        assert journal.audit() == []
        assert (journal.unfinished(), journal.checkpoints()) == ([], [])
        assert journal.append("monday", "user", "new").seq == 2501
        journal.forget([1])
        assert journal.audit() == []


def test_every_user_of_the_database_gets_a_chain(home: Home, old: Path) -> None:
    shared = Home(home.root, home.models, f"sqlite:///{old}")
    open_journal(shared, "ana").close()
    with open_journal(shared, "bob") as journal:
        assert [turn.text for turn in journal.turns()] == ["bob 1", "bob 2", "bob 3"]
        assert journal.audit() == []


def test_a_migration_that_is_cut_off_changes_nothing(
    home: Home, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def failing(*arguments: object) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1200:
            raise KeyboardInterrupt
        return b"\0" * 32

    with monkeypatch.context() as patched:
        patched.setattr("memagent.agent.journal.migrations.turn_leaf", failing)
        with pytest.raises(KeyboardInterrupt):
            open_journal(home, "ana")
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchone() == ("1",)
        assert "chain" not in {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    with open_journal(home, "ana") as journal:
        assert journal.audit() == []


def test_reading_changes_no_old_journal_and_says_what_does(home: Home, old: Path) -> None:
    before = old.read_bytes()
    with pytest.raises(
        OutdatedSchemaError, match=f"schema version 1; reading it needs version {VERSION}.*doctor --mend"
    ):
        open_journal(home, "ana", read_only=True)
    notes = [
        finding.message for finding in examine(home) if finding.area == "journal" and finding.level == "note"
    ]
    assert len(notes) == 1
    assert "schema version 1" in notes[0]
    assert old.read_bytes() == before
    assert not [
        finding
        for finding in examine(home, mend=True)
        if finding.area == "journal" and finding.level == "wrong"
    ]
    with open_journal(home, "ana", read_only=True) as journal:
        assert journal.count() == 2498


def test_a_new_journal_has_the_schema_that_migrations_lead_to(home: Home, old: Path, tmp_path: Path) -> None:
    open_journal(home, "ana").close()
    fresh = Home(tmp_path / "fresh", home.models)
    open_journal(fresh, "ana").close()

    assert schema_of(home) == schema_of(fresh)
