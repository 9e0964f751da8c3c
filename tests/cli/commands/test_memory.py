"""remember, recall and forget."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from memagent.agent.home import Home
from memagent.agent.journal.records import MAX_ATTACHMENT_BYTES
from memagent.agent.memory import open_journal
from memagent.agent.memory.lock import backend_lock
from memagent.backends.errors import InputError, MemagentError, NotFoundError
from tests.cli.commands.remembering import FACT, QUESTION, files_holding, memagent, recalled, stored_turns

pytestmark = pytest.mark.usefixtures("home", "echo_and_words")


# remember


def test_a_statement_is_remembered_under_notes(home: Home) -> None:
    done = memagent("remember", f"  {FACT} ")
    assert (done.exit_code, done.stdout) == (0, "Remembered as turn 1.\n")
    assert stored_turns(home) == [f"1 notes/user: {FACT}"]
    assert recalled(QUESTION) == [FACT]


def test_every_line_of_standard_input_is_a_statement(home: Home) -> None:
    done = memagent("remember", "-", "-s", "diary", stdin=f"{FACT}\r\n\n  \nIch wohne in Köln.\n".encode())
    assert (done.exit_code, done.stdout) == (0, "Remembered 2 statements as turns 1 to 2.\n")
    assert stored_turns(home) == [f"1 diary/user: {FACT}", "2 diary/user: Ich wohne in Köln."]


def test_remember_says_as_json_what_it_did() -> None:
    memagent("remember", "first")
    done = memagent("remember", "-", "-o", "json", "-u", "default", stdin=b"second\nthird\n")
    assert json.loads(done.stdout) == {"user": "default", "session": "notes", "seqs": [2, 3], "taken": True}


@pytest.mark.parametrize(("text", "stdin"), [("", b""), ("  ", b""), ("-", b""), ("-", b"\n \n\t\n")])
def test_nothing_to_remember_is_refused(home: Home, text: str, stdin: bytes) -> None:
    done = memagent("remember", text, stdin=stdin)
    assert isinstance(done.exception, InputError)
    assert "nothing to remember" in str(done.exception)
    assert not home.root.exists()


@pytest.mark.parametrize("stdin", [b"fine\ncaf\xe9\n", b"fine\nwith NUL \0\n"])
def test_one_line_that_cannot_be_stored_keeps_all_from_being_stored(home: Home, stdin: bytes) -> None:
    done = memagent("remember", "-", stdin=stdin)
    assert isinstance(done.exception, InputError)
    assert not home.root.exists() or stored_turns(home) == []


def test_a_statement_that_is_not_utf8_is_refused(home: Home) -> None:
    program = Path(sys.executable).with_name("memagent")
    done = subprocess.run([program, "remember", b"caf\xe9"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: The statement is not valid UTF-8 (byte 3). Nothing was stored.\n"
    assert not home.root.exists()


def test_while_another_process_holds_the_memory_the_journal_takes_it(home: Home) -> None:
    memagent("remember", "first")
    lock = backend_lock(home, "default", "in_memory")
    lock.acquire()
    done = memagent("remember", FACT, "-o", "json")
    lock.release()
    assert json.loads(done.stdout)["taken"] is False
    assert "The journal has the turns" in done.stderr
    assert recalled(QUESTION) == [FACT]


@pytest.mark.parametrize(
    "wrong", [["-b", "nosuch"], ["--set", "nosuch=1"], ["--set", "threshold=x"], ["--set", "x"]]
)
def test_a_wrong_option_stores_nothing(home: Home, wrong: list[str]) -> None:
    done = memagent("remember", FACT, *wrong)
    assert isinstance(done.exception, MemagentError)
    assert not home.root.exists() or stored_turns(home) == []


def test_files_are_attached_to_a_statement(home: Home, tmp_path: Path) -> None:
    contents = {
        "board.PNG": b"\x89PNG",
        "notes.txt": b"notes",
        "data.unknown": b"\0",
        "notes.txt.gz": b"\x1f",
    }
    options = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        options += ["--attach", str(tmp_path / name)]
    done = memagent("remember", "The whiteboard.", *options)
    assert (done.exit_code, done.stdout) == (0, "Remembered as turn 1.\n")
    with open_journal(home, "default") as journal:
        (turn,) = journal.turns()
        assert [journal.attachment(1, position) for position in range(4)] == list(contents.values())
    assert [attachment.media_type for attachment in turn.attachments] == [
        "image/png",
        "text/plain",
        "application/octet-stream",
        "application/octet-stream",
    ]
    shown = memagent("sessions", "show", "notes").stdout.splitlines()
    assert shown[0].endswith("user: The whiteboard.")
    assert shown[1].strip() == "+ image/png, 4 bytes"
    (fields,) = json.loads(memagent("sessions", "show", "notes", "-o", "json").stdout)
    assert fields["attachments"][0] == {
        "media_type": "image/png",
        "size": 4,
        "sha256": hashlib.sha256(b"\x89PNG").hexdigest(),
    }


def test_a_file_that_cannot_be_attached_stores_nothing(home: Home, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(bytes(MAX_ATTACHMENT_BYTES + 1))
    (tmp_path / "small").write_bytes(b"x")
    wrong = {
        ("missing",): "missing cannot be read: No such file",
        (".",): "cannot be read: Is a directory",
        ("empty",): "empty is empty",
        ("large",): "large has more than 16,777,216 bytes",
        ("small",) * 9: "9 attachments; 8 at most",
    }
    for names, fault in wrong.items():
        options = [option for name in names for option in ("--attach", str(tmp_path / name))]
        done = memagent("remember", FACT, *options)
        assert isinstance(done.exception, InputError)
        assert fault in str(done.exception)
    assert not home.root.exists()


def test_a_file_is_attached_to_one_statement_only(home: Home, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x")
    options = ["--attach", str(tmp_path / "small")]
    done = memagent("remember", "-", *options, stdin=b"one\ntwo\n")
    assert isinstance(done.exception, InputError)
    assert "--attach belongs to one statement" in str(done.exception)
    assert not home.root.exists()
    assert memagent("remember", "-", *options, stdin=b"one\n").exit_code == 0


# recall


def test_recall_has_exactly_the_documented_keys() -> None:
    memagent("remember", FACT)
    (item,) = json.loads(memagent("recall", QUESTION, "-o", "json").stdout)
    assert list(item) == [
        "text",
        "score",
        "seqs",
        "session",
        "role",
        "speaker",
        "created_at",
        "why",
        "regenerated",
        "superseded_by",
        "superseded_at",
    ]
    assert (item["text"], item["seqs"], item["session"], item["role"]) == (FACT, [1], "notes", "user")
    assert (item["speaker"], item["regenerated"]) == (None, False)


def test_recall_prints_a_table_or_says_that_there_is_nothing() -> None:
    memagent("remember", "Biscuit")
    shown = memagent("recall", "Biscuit").stdout
    assert "notes" in shown
    assert "Biscuit" in shown
    assert memagent("recall", "volcano").stdout == "Nothing relevant was found.\n"


@pytest.mark.parametrize("query", ["", "  ", "volcano"])
def test_recalling_nothing_is_an_empty_list(query: str) -> None:
    memagent("remember", FACT)
    assert recalled(query) == []


def test_settings_and_the_limit_reach_the_backend() -> None:
    memagent("remember", "-", stdin=b"dog one\ndog two\ndog three\n")
    assert len(recalled("dog cat bird fish horse")) == 0
    assert len(recalled("dog cat bird fish horse", "--set", "threshold=0.1")) == 3
    assert recalled("dog", "--limit", "2") == ["dog three", "dog two"]
    assert memagent("recall", "dog", "--limit", "0").exit_code == 2


def test_every_backend_reads_the_same_journal() -> None:
    memagent("remember", FACT, "-b", "none")
    assert recalled(QUESTION, "-b", "rag") == [FACT]
    assert recalled(QUESTION, "-b", "in_memory") == [FACT]
    assert recalled(QUESTION, "-b", "none") == []


@pytest.mark.parametrize("command", [["recall", "x"], ["forget", "--seq", "1"], ["export", "-"]])
def test_a_mistyped_user_is_not_an_empty_memory(home: Home, command: list[str]) -> None:
    memagent("remember", FACT, "-u", "ana")
    done = memagent(*command, "-u", "anna")
    assert isinstance(done.exception, NotFoundError)
    assert "There is no user 'anna'. Did you mean ana?" in str(done.exception)
    assert home.users() == ["ana"]


# forget


@pytest.mark.parametrize("backend", ["in_memory", "rag"])
def test_what_is_forgotten_is_in_no_file(home: Home, backend: str) -> None:
    memagent("remember", "-", "-b", backend, stdin=b"I play the xylophone.\nI live in Porto.\n")
    memagent("backends", "rebuild", backend)
    assert files_holding(home, "xylophone")
    done = memagent("forget", "--seq", "1", "--yes", "-b", backend)
    assert (done.exit_code, done.stdout) == (0, "Forgot 1 turn.\n")
    assert recalled("xylophone", "-b", backend) == []
    assert files_holding(home, "xylophon") == []
    assert stored_turns(home) == ["2 notes/user: I live in Porto."]


def test_several_numbers_are_forgotten_at_once_and_reported(home: Home) -> None:
    memagent("remember", "-", stdin=b"one\ntwo\nthree\n")
    done = memagent("forget", "--seq", "1", "--seq", "3", "--seq", "99", "-y", "-o", "json")
    assert json.loads(done.stdout) == {
        "user": "default",
        "turns": [1, 3],
        "replies": [],
        "discarded": [],
        "remaining": [],
    }
    assert stored_turns(home) == ["2 notes/user: two"]


def test_matching_forgets_whatever_the_case(home: Home) -> None:
    memagent("remember", "-", stdin=b"Old ADDRESS: Main St\nmy old address\nnew address\n")
    assert memagent("forget", "--matching", "OLD address", "--yes").stdout == "Forgot 2 turns.\n"
    assert stored_turns(home) == ["3 notes/user: new address"]


def test_a_session_is_forgotten_whole(home: Home) -> None:
    memagent("remember", "-", "-s", "monday", stdin=b"one\ntwo\n")
    memagent("remember", "three", "-s", "tuesday")
    assert memagent("forget", "--session", "monday", "--yes").stdout == "Forgot 2 turns.\n"
    assert stored_turns(home) == ["3 tuesday/user: three"]


def test_replies_that_saw_the_turn_go_with_it(home: Home) -> None:
    memagent("chat", "-p", FACT, "-s", "monday")
    memagent("chat", "-p", QUESTION, "-s", "tuesday")
    done = memagent("forget", "--matching", FACT, "--seq", "1", "--yes")
    assert done.exit_code == 2
    done = memagent("forget", "--seq", "1", "--yes")
    assert done.stdout == "Forgot 1 turn and 2 replies written with it in view.\n"
    assert stored_turns(home) == [f"3 tuesday/user: {QUESTION}"]
    assert files_holding(home, "Biscuit") == []


def test_before_asking_the_turns_are_shown(home: Home) -> None:
    memagent("chat", "-p", FACT, "-s", "monday")
    done = memagent("forget", "--seq", "1", stdin=b"y\n")
    assert done.stdout == "Forgot 1 turn and 1 reply written with it in view.\n"
    assert "     1 " in done.stderr
    assert f"user: {FACT}" in done.stderr
    assert f"assistant: {FACT}" in done.stderr
    assert "Forget 1 turn and 1 reply written with it in view for good?" in done.stderr
    assert stored_turns(home) == []


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b""])
def test_a_refused_confirmation_forgets_nothing(home: Home, answer: bytes) -> None:
    memagent("remember", FACT)
    done = memagent("forget", "--seq", "1", stdin=answer)
    assert done.exit_code == 1
    assert "Aborted" in done.stderr
    assert stored_turns(home) == [f"1 notes/user: {FACT}"]


@pytest.mark.parametrize(
    "choice",
    [["--seq", "7"], ["--matching", "volcano"], ["--matching", " "]],
)
def test_when_nothing_fits_nothing_is_forgotten(home: Home, choice: list[str]) -> None:
    memagent("remember", FACT)
    done = memagent("forget", *choice, "--yes")
    assert isinstance(done.exception, InputError)
    assert "othing was forgotten" in str(done.exception)
    assert len(stored_turns(home)) == 1


def test_an_unknown_session_suggests_the_near_one() -> None:
    memagent("remember", FACT, "-s", "monday")
    done = memagent("forget", "--session", "mondya", "--yes")
    assert isinstance(done.exception, NotFoundError)
    assert "Did you mean monday?" in str(done.exception)


@pytest.mark.parametrize(
    "choice", [[], ["--seq", "1", "--session", "notes"], ["--session", "a", "--matching", "b"]]
)
def test_exactly_one_way_of_choosing_is_needed(home: Home, choice: list[str]) -> None:
    memagent("remember", FACT)
    done = memagent("forget", *choice, "--yes")
    assert done.exit_code == 2
    assert "exactly one of --seq, --session and --matching" in " ".join(done.stderr.replace("│", " ").split())
    assert len(stored_turns(home)) == 1


def test_a_number_no_turn_can_have_fits_nothing(home: Home) -> None:
    memagent("remember", FACT)
    done = memagent("forget", "--seq", "99999999999999999999", "--yes")
    assert done.exit_code in (1, 2)
    assert isinstance(done.exception, (InputError, SystemExit))
    assert len(stored_turns(home)) == 1
