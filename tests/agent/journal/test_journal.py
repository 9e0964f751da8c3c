"""The journal: append, read and forget, beside other processes, and never a byte of what was forgotten."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from memagent.agent.home import Home
from memagent.agent.journal import Journal, NewTurn, database
from memagent.agent.memory import open_journal
from memagent.backends.errors import InputError, MemagentError, NotFoundError, StorageError
from tests.agent.memories import bytes_of

BAD_TEXTS = ["", "   ", "\n\t", "a\0b", "\0", "half \ud83d pair", "\udc80"]
BAD_SESSIONS = ["", "  ", "two\nlines", "bell\a", "x" * 256, "half \ud83d"]
WORD = "xyzzy-plugh-7319"

WRITER = """
import sys
from memagent.agent.journal import Journal

where, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Journal(where if "://" in where else __import__("pathlib").Path(where), "ana") as journal:
    print("ready", flush=True)
    sys.stdin.readline()
    for place in range(count):
        journal.append(name, "user", f"{name} {place}")
"""


@pytest.fixture
def file(home: Home) -> Path:
    return home.journal_file("ana")


@pytest.fixture
def journal(file: Path) -> Iterator[Journal]:
    with Journal(file, "ana") as opened:
        yield opened


def texts(journal: Journal, **chosen: str | int) -> list[str]:
    return [turn.text for turn in journal.turns(**chosen)]  # type: ignore[arg-type]


def write_from_two_processes(where: str, each: int) -> list[int]:
    """Let two processes append at the same time, both having the journal open; return their exit codes."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, where, name, str(each)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in ("left", "right")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    return [writer.returncode for writer in writers]


# appending and reading


def test_a_turn_comes_back_whole_after_reopening(file: Path) -> None:
    when = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    with Journal(file, "ana") as journal:
        question = journal.append("monday", "user", "What is it called?")
        reply = journal.append(
            "monday",
            "assistant",
            " Biscuit.\r\n",
            speaker="Bot",
            created_at=when,
            in_view=(question.seq,),
            derived=True,
            recalled=(question.seq,),
        )
    with Journal(file, "ana") as journal:
        assert list(journal.turns()) == [question, reply]
    assert (reply.text, reply.speaker, reply.in_view, reply.derived) == (" Biscuit.\r\n", "Bot", (1,), True)
    assert (reply.created_at, reply.created_at.tzinfo) == (when, UTC)
    assert reply.recalled == (1,)
    assert (question.speaker, question.in_view, question.derived, question.recalled) == (None, (), False, ())


def test_a_turn_without_a_time_gets_the_present(journal: Journal) -> None:
    before = datetime.now(UTC)
    turn = journal.append("monday", "user", "hello")
    assert before <= turn.created_at <= datetime.now(UTC)


def test_seqs_run_from_one_and_ids_differ(journal: Journal) -> None:
    turns = [journal.append("monday", "user", "same text") for _ in range(5)]
    assert [turn.seq for turn in turns] == [1, 2, 3, 4, 5]
    assert len({turn.id for turn in turns}) == 5
    assert {len(turn.id) for turn in turns} == {32}
    assert journal.last() == (5, 0)


def test_an_empty_journal_says_so(journal: Journal) -> None:
    assert (journal.last(), journal.count(), list(journal.turns()), journal.sessions()) == ((0, 0), 0, [], [])


@pytest.mark.parametrize("role", ["user", "assistant", "system", "tool"])
def test_every_role_is_kept(role: str, journal: Journal) -> None:
    journal.append("monday", role, "hello")
    assert [turn.role for turn in journal.turns()] == [role]


def test_text_of_every_unicode_plane_comes_back(file: Path) -> None:
    edges = [0x1, 0x7F, 0x85, 0x2028, 0x202E, 0xD7FF, 0xE000, 0xFEFF, 0xFFFE, 0xFFFF]
    planes = [(plane << 16) + low for plane in range(1, 17) for low in (0x0, 0x1F600 & 0xFFFF, 0xFFFF)]
    texts_of_all_planes = [f"<{chr(point)}>" for point in edges + planes] + [
        "e\u0301 \u00e9 a\u200db",
        "x" * 200_000,
    ]
    with Journal(file, "ana") as journal:
        journal.extend([NewTurn("monday", "user", text) for text in texts_of_all_planes])
    with Journal(file, "ana") as journal:
        assert texts(journal) == texts_of_all_planes


def test_turns_are_read_in_order_past_a_page(journal: Journal) -> None:
    journal.extend([NewTurn(f"s{place % 3}", "user", f"turn {place}") for place in range(1, 2502)])
    assert [turn.seq for turn in journal.turns()] == list(range(1, 2502))
    assert [turn.seq for turn in journal.turns(after=2499)] == [2500, 2501]
    assert texts(journal, session="s1") == [f"turn {place}" for place in range(1, 2502, 3)]
    assert texts(journal, session="s1", after=2497) == ["turn 2500"]
    assert [turn.seq for turn in journal.get(range(3000))] == list(range(1, 2502))


def test_get_returns_journal_order_without_unknown_seqs(journal: Journal) -> None:
    for text in ("one", "two", "three"):
        journal.append("monday", "user", text)
    assert [turn.text for turn in journal.get([3, 99, 1, -4])] == ["one", "three"]
    assert journal.get([]) == []


def test_recent_gives_a_sessions_last_turns_oldest_first(journal: Journal) -> None:
    for place in range(6):
        journal.append("monday", "user", f"monday {place}")
        journal.append("tuesday", "user", f"tuesday {place}")
    assert [turn.text for turn in journal.recent(2, "monday")] == ["monday 4", "monday 5"]
    assert len(journal.recent(100, "monday")) == 6
    assert journal.recent(5, "sunday") == []
    last = journal.recent(1, "monday")[0].seq
    assert [turn.text for turn in journal.recent(2, "monday", before=last)] == ["monday 3", "monday 4"]
    assert journal.recent(2, before=1) == []


def test_recent_blocks_begin_at_the_same_turn_until_a_block_is_complete(journal: Journal) -> None:
    assert journal.recent_blocks(4, "monday") == []
    firsts = []
    for place in range(14):
        journal.append("monday", "user", f"monday {place}")
        journal.append("tuesday", "user", f"tuesday {place}")
        blocks = [turn.text for turn in journal.recent_blocks(4, "monday")]
        first = int(blocks[0].removeprefix("monday "))
        assert blocks == [f"monday {later}" for later in range(first, place + 1)]
        firsts.append(first)
    assert firsts == [0] * 7 + [4] * 4 + [8] * 3


def test_the_session_spoken_in_last_stands_at_the_end(journal: Journal) -> None:
    for session in ("a", "b", "c", "a"):
        journal.append(session, "user", f"in {session}")
    sessions = journal.sessions()
    assert [(session.name, session.turns) for session in sessions] == [("b", 1), ("c", 1), ("a", 2)]
    first, last = journal.get([1, 4])
    assert (sessions[-1].created_at, sessions[-1].last_at) == (first.created_at, last.created_at)


def test_a_session_that_is_not_there_is_named_with_near_ones(journal: Journal) -> None:
    journal.append("monday", "user", "hello")
    assert journal.session("monday").turns == 1
    with pytest.raises(NotFoundError, match="Did you mean monday"):
        journal.session("mondya")


def test_matching_ignores_case_also_beyond_ascii(journal: Journal) -> None:
    for text in ("The ÉCOLE is old", "Straße", "nothing", "école"):
        journal.append("monday", "user", text)
    assert [turn.seq for turn in journal.matching("éCoLe")] == [1, 4]
    assert [turn.seq for turn in journal.matching("STRASSE")] == [2]
    assert [turn.seq for turn in journal.matching("%")] == []


# refusing


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_a_text_that_cannot_be_kept_is_refused_and_nothing_stored(text: str, journal: Journal) -> None:
    with pytest.raises(InputError):
        journal.append("monday", "user", text)
    assert (journal.last(), journal.count(), journal.sessions()) == ((0, 0), 0, [])


@pytest.mark.parametrize("session", BAD_SESSIONS)
def test_a_session_name_that_cannot_be_shown_is_refused(session: str, journal: Journal) -> None:
    with pytest.raises(InputError, match="session name"):
        journal.append(session, "user", "hello")
    assert (journal.last(), journal.count(), journal.sessions()) == ((0, 0), 0, [])


@pytest.mark.parametrize("role", ["", "robot", "User", "user "])
def test_an_unknown_role_is_refused(role: str, journal: Journal) -> None:
    with pytest.raises(InputError, match="role"):
        journal.append("monday", role, "hello")
    assert journal.count() == 0


@pytest.mark.parametrize("user", ["", " ", "two\nlines", "x" * 256])
def test_a_bad_user_name_is_refused_and_no_file_made(user: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="user name"):
        Journal(tmp_path / "j.sqlite3", user)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("speaker", ["half \ud83d", "a\0b"])
def test_a_speaker_that_cannot_be_kept_is_refused(speaker: str, journal: Journal) -> None:
    with pytest.raises(InputError):
        journal.append("monday", "user", "hello", speaker=speaker)
    assert journal.count() == 0


def test_a_recalled_turn_that_was_not_in_view_is_refused(journal: Journal) -> None:
    journal.append("monday", "user", "hello")
    with pytest.raises(InputError, match="recalled but not in view"):
        journal.append_reply("monday", "hi", [1], derived=True, recalled=[1, 2])
    assert journal.count() == 1
    reply = journal.append_reply("monday", "hi", [1], derived=True, recalled=[1])
    assert reply is not None
    assert (reply.in_view, reply.recalled) == ((1,), (1,))
    assert journal.get([2]) == [reply]


def test_a_reply_takes_an_id_and_is_stored_under_it_once(journal: Journal) -> None:
    reply = journal.append_reply("monday", "hi", [], derived=False, turn_id="a" * 32)
    assert reply is not None
    assert journal.seen_ids(["a" * 32]) == {reply.id: reply.seq}
    with pytest.raises(StorageError):
        journal.append_reply("monday", "hi again", [], derived=False, turn_id="a" * 32)
    assert journal.count() == 1


def test_extend_keeps_all_or_none(journal: Journal) -> None:
    journal.append("monday", "user", "before")
    with pytest.raises(InputError):
        journal.extend([NewTurn("new", "user", "good"), NewTurn("new", "user", "bad\0")])
    with pytest.raises(StorageError, match="Nothing of this step was stored"):
        journal.extend(
            [NewTurn("new", "user", "one", id="f" * 32), NewTurn("new", "user", "two", id="f" * 32)]
        )
    assert texts(journal) == ["before"]
    assert [session.name for session in journal.sessions()] == ["monday"]
    assert journal.append("monday", "user", "after").seq == 2


def test_extending_by_nothing_changes_nothing(journal: Journal) -> None:
    assert journal.extend([]) == []
    assert (journal.last(), journal.sessions()) == ((0, 0), [])


# opening


def test_a_newer_schema_is_refused_and_left_as_it_is(file: Path) -> None:
    with Journal(file, "ana") as journal:
        journal.append("monday", "user", "hello")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
        connection.commit()
    before = file.read_bytes()
    with pytest.raises(StorageError, match="schema version 99"):
        Journal(file, "ana")
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"garbage", b"garbage" * 5000, b"\0" * 100 + b"\xff" * 8000])
def test_a_damaged_file_is_refused_and_left_untouched(content: bytes, file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(StorageError, match="left untouched"):
        Journal(file, "ana")
    assert file.read_bytes() == content
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_another_programs_database_is_refused(file: Path) -> None:
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE turns (left_or_right TEXT)")
        connection.execute("INSERT INTO turns VALUES ('left')")
        connection.commit()
    with pytest.raises(StorageError, match="another program"):
        Journal(file, "ana")
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT * FROM turns").fetchall() == [("left",)]
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("turns",)]


def test_the_check_finds_a_damaged_page(file: Path) -> None:
    with Journal(file, "ana") as journal:
        journal.extend([NewTurn("monday", "user", f"turn {place} " * 20) for place in range(400)])
        assert journal.audit() == []
    content = bytearray(file.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xa5" * 4096
    file.write_bytes(content)
    with Journal(file, "ana") as journal:
        try:
            faults = journal.audit()
        except StorageError as error:
            faults = [str(error)]
    assert faults


def test_a_folder_in_the_journals_place_is_a_storage_error(file: Path) -> None:
    file.mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot be opened"):
        Journal(file, "ana")


def test_an_unknown_kind_of_database_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="oops"):
        Journal("oops://host/name", "ana")


def test_a_url_that_is_none_is_a_memagent_error() -> None:
    with pytest.raises(MemagentError):
        Journal("not a url", "ana")


def test_each_journal_has_an_id_that_stays(tmp_path: Path) -> None:
    with Journal(tmp_path / "a", "ana") as first, Journal(tmp_path / "b", "ana") as second:
        ids = (first.id, second.id)
    with Journal(tmp_path / "a", "ana") as again:
        assert again.id == ids[0]
    assert ids[0] != ids[1]


@pytest.mark.parametrize("user", ["Ana", "ana@example.org", "Ana Maria", "José"])
def test_a_user_with_an_odd_name_has_a_journal(user: str, home: Home) -> None:
    with open_journal(home, user) as journal:
        journal.append("monday", "user", "hello")
    assert home.journal_file(user).stat().st_size > 0
    assert [path for path in home.root.rglob("*.sqlite3")] == [home.journal_file(user)]


def test_no_user_name_leads_into_another_users_folder(home: Home) -> None:
    with open_journal(home, "bob") as journal:
        journal.append("monday", "user", "this is bob's")
    before = bytes_of(home.user_folder("bob"))
    with open_journal(home, "x/../bob") as journal:
        journal.append("monday", "user", "this is not")
    assert bytes_of(home.user_folder("bob")) == before
    assert home.journal_file("x/../bob").stat().st_size > 0


def test_a_home_with_a_question_mark_in_its_path_is_used(tmp_path: Path) -> None:
    file = tmp_path / "what?" / "journal.sqlite3"
    with Journal(file, "ana") as journal:
        journal.append("monday", "user", "hello")
    assert file.stat().st_size > 0


# several at once


def test_two_processes_lose_nothing(journal: Journal, file: Path) -> None:
    assert write_from_two_processes(str(file), 40) == [0, 0]
    assert [turn.seq for turn in journal.turns()] == list(range(1, 81))
    for name in ("left", "right"):
        assert texts(journal, session=name) == [f"{name} {place}" for place in range(40)]


def test_two_processes_lose_nothing_in_a_shared_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    with Journal(url, "ana") as journal:
        assert write_from_two_processes(url, 40) == [0, 0]
        assert [turn.seq for turn in journal.turns()] == list(range(1, 81))


def test_an_open_journal_sees_what_another_writes_and_forgets(journal: Journal, file: Path) -> None:
    with Journal(file, "ana") as other:
        other.append("monday", "user", "from the other")
        assert texts(journal) == ["from the other"]
        journal.append("monday", "user", "from this one")
        other.forget([1])
    assert texts(journal) == ["from this one"]
    assert journal.last() == (2, 1)


def test_users_of_one_database_do_not_see_each_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    with Journal(url, "ana") as ana, Journal(url, "bob") as bob:
        for text in ("ana one", "ana two"):
            ana.append("monday", "user", text)
        bob.append("monday", "user", "bob one")
        assert ana.id == bob.id
        assert [turn.seq for turn in bob.turns()] == [1]
        assert (texts(ana), texts(bob)) == (["ana one", "ana two"], ["bob one"])
        assert [turn.text for turn in bob.get([1, 2])] == ["bob one"]
        assert [turn.text for turn in bob.recent(9, "monday")] == ["bob one"]
        assert list(bob.matching("ana")) == []
        assert (ana.count(), bob.count()) == (2, 1)
        assert [session.turns for session in bob.sessions()] == [1]
        hers = [turn.id for turn in ana.turns()]
        assert bob.seen_ids(hers) == {}
        assert [forgetting.seq for forgetting in bob.forget([1, 2])] == [1]
        bob.delete_session("monday")
        assert (texts(ana), ana.forgettings(), ana.last()) == (["ana one", "ana two"], [], (2, 0))
        assert [session.turns for session in ana.sessions()] == [2]
        assert b"bob one" not in bytes_of(tmp_path)


# forgetting


def test_forgetting_leaves_a_tombstone_and_takes_the_rest(journal: Journal) -> None:
    turns = [journal.append("monday", "user", text) for text in ("one", "two", "three")]
    before = datetime.now(UTC)
    tombstones = journal.forget([2, 77])
    assert [(tombstone.number, tombstone.seq, tombstone.turn_id) for tombstone in tombstones] == [
        (1, 2, turns[1].id)
    ]
    assert before <= tombstones[0].forgotten_at <= datetime.now(UTC)
    assert journal.forgettings() == tombstones
    assert texts(journal) == ["one", "three"]
    assert (journal.count(), journal.get([2]), journal.last()) == (2, [], (3, 1))
    assert journal.seen_ids([turn.id for turn in turns]) == {turns[0].id: 1, turns[1].id: 0, turns[2].id: 3}


def test_forgettings_are_numbered_on_and_read_from_a_number(journal: Journal) -> None:
    journal.extend([NewTurn("monday", "user", f"turn {place}") for place in range(6)])
    journal.forget([5, 2])
    journal.forget([1])
    assert [(tombstone.number, tombstone.seq) for tombstone in journal.forgettings()] == [
        (1, 2),
        (2, 5),
        (3, 1),
    ]
    assert [tombstone.seq for tombstone in journal.forgettings(after=2)] == [1]


def test_forgetting_twice_or_what_is_not_there_changes_nothing(journal: Journal) -> None:
    journal.append("monday", "user", "one")
    journal.forget([1])
    assert journal.forget([1, 2, 3]) == []
    assert journal.forget([]) == []
    assert journal.last() == (1, 1)


def test_more_turns_than_a_page_are_forgotten_at_once(journal: Journal) -> None:
    journal.extend([NewTurn("monday", "user", f"turn {place}") for place in range(1, 2201)])
    assert len(journal.forget(range(1, 2200))) == 2199
    assert texts(journal) == ["turn 2200"]
    assert journal.last() == (2200, 2199)


def test_a_seq_is_never_given_again(file: Path) -> None:
    with Journal(file, "ana") as journal:
        journal.append("monday", "user", "one")
        journal.append("monday", "user", "two")
        journal.forget([1, 2])
        assert journal.append("monday", "user", "three").seq == 3
        journal.forget([3])
    with Journal(file, "ana") as journal:
        assert journal.append("monday", "user", "four").seq == 4


def test_forgotten_text_is_in_no_byte_of_any_file(file: Path) -> None:
    def around(count: int) -> list[NewTurn]:
        return [
            NewTurn(f"s{place % 7}", "user", f"filler {place} " * (place % 23 + 1)) for place in range(count)
        ]

    with Journal(file, "ana") as journal, Journal(file, "ana") as beside:
        journal.extend(around(300))
        short = journal.append("short", "user", f"my word is {WORD}").seq
        long = journal.append("long", "user", f"{WORD} " * 3000).seq
        spoken = journal.append("who", "user", "hello", speaker=WORD).seq
        for _ in range(3):
            journal.extend(around(150))
        middle = journal.extend([NewTurn("mid", "user", f"{place} {WORD} " * 9) for place in range(40)])
        beside.extend(around(300))
        assert WORD.encode() in bytes_of(file.parent)
        journal.forget([short, long, spoken, *(turn.seq for turn in middle)])
        assert WORD.encode() not in bytes_of(file.parent)
        assert beside.count() == 1050
        assert beside.audit() == []
    assert WORD.encode() not in bytes_of(file.parent)


def test_purging_rewrites_the_file_whatever_was_left_in_it(journal: Journal, file: Path) -> None:
    journal.extend([NewTurn("monday", "user", f"{place} {WORD} " * 20) for place in range(50)])
    with closing(sqlite3.connect(file)) as careless:
        careless.execute("PRAGMA secure_delete=OFF")
        careless.execute("DELETE FROM turns WHERE seq > 1")
        careless.execute("UPDATE turns SET text = 'hello'")
        careless.commit()
    assert WORD.encode() in bytes_of(file.parent)
    journal.purge()
    assert WORD.encode() not in bytes_of(file.parent)
    assert texts(journal) == ["hello"]


def test_forgotten_text_is_in_no_byte_of_a_shared_database(tmp_path: Path) -> None:
    with Journal(f"sqlite:///{tmp_path / 'shared.sqlite3'}", "ana") as journal:
        journal.extend([NewTurn("monday", "user", f"filler {place} " * 9) for place in range(200)])
        seq = journal.append("monday", "user", f"{WORD} " * 1000).seq
        journal.extend([NewTurn("monday", "user", f"filler {place} " * 9) for place in range(200)])
        journal.forget([seq])
        assert WORD.encode() not in bytes_of(tmp_path)
        assert journal.count() == 400


def test_a_reader_that_keeps_forgotten_bytes_alive_is_reported(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    with Journal(file, "ana") as journal:
        seq = journal.append("monday", "user", WORD).seq
        with closing(sqlite3.connect(file, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM turns").fetchall()
            with pytest.raises(StorageError, match="write-ahead log"):
                journal.forget([seq])
        assert journal.count() == 0
        journal.purge()
        assert WORD.encode() not in bytes_of(file.parent)


def test_a_deleted_sessions_name_is_in_no_byte_of_any_file(journal: Journal, file: Path) -> None:
    journal.append(WORD, "user", "hello")
    journal.append("other", "user", "stays")
    journal.forget([1])
    assert [session.name for session in journal.sessions()] == [WORD, "other"]
    journal.delete_session(WORD)
    assert [session.name for session in journal.sessions()] == ["other"]
    assert WORD.encode() not in bytes_of(file.parent)
