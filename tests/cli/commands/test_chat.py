"""memagent chat: one message, lines from a pipe, and what goes wrong, with the echo model."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from memagent.agent.home import Home
from memagent.agent.memory import open_journal
from memagent.backends.errors import InputError, MemagentError, NotFoundError, SettingError
from memagent.cli import main as command
from memagent.cli.chat.commands import COMMANDS
from memagent.cli.main import app

pytestmark = pytest.mark.usefixtures("home")
FACT, QUESTION = "My dog is called Biscuit.", "What is my dog called?"
Main = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def echo_and_words(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a test says otherwise: the echo model and the in-memory backend."""
    monkeypatch.setenv("MEMAGENT_MODEL", "echo")
    monkeypatch.setenv("MEMAGENT_BACKEND", "in_memory")


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Main]:
    """Run the whole program in this process; returns exit code, standard output and standard error."""
    mask = os.umask(0o077)

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["memagent", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            command.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield run
    os.umask(mask)


def chat(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, ["chat", *arguments], input=stdin)


def talk(*lines: str, session: str = "monday") -> Result:
    return chat("--session", session, stdin="".join(f"{line}\n" for line in lines).encode())


def stored_turns(home: Home, user: str = "default") -> list[str]:
    """What the user's journal holds."""
    with open_journal(home, user) as journal:
        return [f"{turn.session}/{turn.role}: {turn.text}" for turn in journal.turns()]


# one message


def test_the_reply_is_printed_and_both_turns_are_kept(home: Home) -> None:
    done = chat("-p", FACT, "-s", "monday")
    assert (done.exit_code, done.stdout) == (0, FACT + "\n")
    assert stored_turns(home) == [f"monday/user: {FACT}", f"monday/assistant: {FACT}"]


def test_json_has_exactly_the_documented_keys() -> None:
    done = chat("-p", FACT, "-s", "monday", "--output", "json")
    reply = json.loads(done.stdout)
    assert list(reply) == [
        "reply",
        "backend",
        "channel",
        "session",
        "user",
        "recollections",
        "usage",
        "seconds",
    ]
    assert (reply["reply"], reply["recollections"]) == (FACT, [])
    assert (reply["backend"], reply["channel"]) == ("in_memory", "text")
    assert (reply["session"], reply["user"]) == ("monday", "default")
    assert set(reply["usage"]) == {"prompt_tokens", "recollection_tokens", "reply_tokens", "window"}
    assert reply["usage"]["reply_tokens"] == 5
    assert reply["usage"]["recollection_tokens"] == 0
    assert set(reply["seconds"]) == {"recall", "first_token", "total"}
    assert 0 <= reply["seconds"]["first_token"] <= reply["seconds"]["total"]


@pytest.mark.parametrize("backend", ["in_memory", "rag"])
def test_a_second_session_recalls_the_first(backend: str) -> None:
    chat("-b", backend, "-p", FACT, "-s", "monday")
    done = chat("-b", backend, "-p", QUESTION, "-s", "tuesday", "--output", "json")
    reply = json.loads(done.stdout)
    assert FACT in [item["text"] for item in reply["recollections"]]
    assert f"session monday, user] {FACT}" in reply["reply"]
    assert reply["reply"].endswith(QUESTION)
    assert reply["usage"]["recollection_tokens"] > 0


def test_the_control_recalls_nothing() -> None:
    chat("-b", "none", "-p", FACT, "-s", "monday")
    assert chat("-b", "none", "-p", QUESTION, "-s", "tuesday").stdout == QUESTION + "\n"


def test_users_do_not_share_memory(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    chat("-u", "ana", "-p", FACT, "-s", "monday")
    assert chat("-u", "ben", "-p", QUESTION, "-s", "tuesday").stdout == QUESTION + "\n"
    monkeypatch.setenv("MEMAGENT_USER", "ana")
    assert "Biscuit" in chat("-p", QUESTION, "-s", "tuesday").stdout
    assert home.users() == ["ana", "ben"]


def test_continue_goes_on_with_the_latest_session(home: Home) -> None:
    chat("-p", "first", "-s", "monday")
    chat("-p", "second", "-s", "tuesday")
    chat("-p", "third", "-s", "monday")
    chat("-p", "fourth", "--continue")
    assert stored_turns(home)[-2] == "monday/user: fourth"


def test_continue_without_a_session_begins_one(home: Home) -> None:
    assert chat("-p", "hello", "--continue").exit_code == 0
    assert len(stored_turns(home)) == 2


def test_unnamed_sessions_begun_at_once_are_not_one(home: Home) -> None:
    for _ in range(5):
        chat("-p", "hello")
    with open_journal(home, "default") as journal:
        assert len(journal.sessions()) == 5


def test_without_a_name_a_session_is_named_by_its_time() -> None:
    reply = json.loads(chat("-p", "hello", "-o", "json").stdout)
    assert len(reply["session"]) == len("2026-03-01-0930-abcd")
    assert reply["session"][:2] == "20"


def test_a_message_comes_from_standard_input_too(home: Home) -> None:
    done = chat("-p", "-", "-s", "monday", stdin="\ufeffgrüße\n東京\n".encode())
    assert (done.exit_code, done.stdout.strip()) == (0, "grüße\n東京")
    assert stored_turns(home)[0] == "monday/user: grüße\n東京\n"


def test_a_reply_is_no_longer_than_allowed() -> None:
    assert chat("-p", "one two three four", "--max-tokens", "2").stdout.split() == ["one", "two"]


def test_escape_sequences_in_a_reply_are_defused(home: Home) -> None:
    done = chat("-p", "red \x1b[31m and \x1b]0;title\x07", "-s", "monday")
    assert done.stdout == "red ·[31m and ·]0;title·\n"
    assert stored_turns(home)[0] == "monday/user: red \x1b[31m and \x1b]0;title\x07"


# what cannot be done


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p", "hi", "--session", "monday", "--continue"],
        ["--output", "json"],
        ["-p", "hi", "--output", "xml"],
        ["-p", "hi", "--channel", "radio"],
        ["-p", "hi", "--max-tokens", "0"],
        ["-p", "hi", "--temperature", "2.5"],
        ["-p", "hi", "--temperature", "-1"],
        ["-p", "hi", "--seed", "x"],
    ],
)
def test_options_that_contradict_or_do_not_fit_exit_with_two(home: Home, arguments: list[str]) -> None:
    done = chat(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Usage: memagent chat" in done.stderr
    assert not home.root.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--backend", "ragg"], "There is no backend 'ragg'. Did you mean rag?"),
        (["--model", "ecko"], "There is no model 'ecko'. Did you mean echo?"),
        (
            ["--backend", "rag", "--set", "abstian=false"],
            "There is no setting of rag 'abstian'. Did you mean abstain?",
        ),
        (["--backend", "rag", "--set", "candidates=many"], "rag: candidates='many' does not fit"),
        (["--set", "abstain"], "--set abstain: expected KEY=VALUE"),
        (["--channel", "model"], "The backend in_memory has no model channel; use --channel text."),
        (["--session", "a\nb"], "holds characters that cannot be printed"),
        (["--session", " "], "The session name is empty."),
        (["--user", ""], "The user name is empty"),
        (["--user", "x" * 200], "The user name is too long"),
        (["-p", ""], "The message is empty"),
        (["-p", " \n"], "The message is empty"),
        (["-p", "word " * 9000], "The message takes 9,0"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_exit_code_one(
    run_main: Main, home: Home, arguments: list[str], expected: str
) -> None:
    code, out, err = run_main("chat", "-p", "hi", *arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert not home.root.exists() or stored_turns(home) == []


def test_a_success_exits_with_zero_and_says_nothing_on_stderr(run_main: Main) -> None:
    assert run_main("chat", "-p", "hi") == (0, "hi\n", "")


def test_standard_input_that_is_not_utf8_is_refused_by_line_and_byte(run_main: Main, home: Home) -> None:
    code, out, err = run_main("chat", "-p", "-", stdin=b"fine\nnot f\xefne\n")
    assert (code, out) == (1, "")
    assert err.startswith("Error: Standard input, line 2: byte 0xef is not valid UTF-8. Nothing was stored")
    assert not home.root.exists()


def test_an_argument_that_is_not_utf8_is_refused(home: Home) -> None:
    program = Path(sys.executable).with_name("memagent")
    done = subprocess.run(
        [program, "chat", "-p", b"caf\xe9 au lait"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: The message is not valid UTF-8 (byte 3). Nothing was stored.")
    assert not home.root.exists()


def test_a_reader_that_leaves_early_is_no_traceback(home: Home) -> None:
    program = Path(sys.executable).with_name("memagent")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [program, "chat", "-p", "hello"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert "Traceback" not in done.stderr
    assert done.returncode != 0
    assert stored_turns(home)[0].endswith("/user: hello")


# lines from a pipe


def test_lines_are_answered_in_turn_until_the_end(home: Home) -> None:
    done = talk(FACT, "", "   ", "I live in Porto.")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "echo with in_memory memory, session monday. /help lists the commands.",
        FACT,
        "I live in Porto.",
        "Continue with: memagent chat --session monday",
    ]
    assert stored_turns(home)[::2] == [f"monday/user: {FACT}", "monday/user: I live in Porto."]


def test_a_last_line_without_an_end_is_answered_too(home: Home) -> None:
    assert chat("-s", "monday", stdin=b"first\nlast").exit_code == 0
    assert stored_turns(home)[2] == "monday/user: last"


def test_the_command_that_continues_a_chat_has_the_options_that_were_given(home: Home) -> None:
    given = ["-u", "ana maria", "-b", "in_memory", "--set", "threshold=0.3", "--set", "abstain=false"]
    given += ["--max-tokens", "3", "--plain"]
    shown = chat("-s", "-x", *given, stdin=b"one two three four\n").stdout
    again = shlex.split(shown.splitlines()[-1].partition("Continue with: ")[2])
    assert again[:2] == ["memagent", "chat"]
    assert "--plain" in again
    done = chat(*again[2:], stdin=b"five six seven eight\n")
    assert done.exit_code == 0
    assert stored_turns(home, "ana maria") == [
        "-x/user: one two three four",
        "-x/assistant: one two three",
        "-x/user: five six seven eight",
        "-x/assistant: five six seven",
    ]


def test_quit_leaves_at_once(home: Home) -> None:
    done = talk("first", "/quit", "never said")
    assert done.exit_code == 0
    assert "Continue with: memagent chat --session monday" in done.stdout
    assert [line for line in stored_turns(home) if "never" in line] == []


def test_help_lists_every_command() -> None:
    shown = talk("/help").stdout
    for name in ("/help", "/why", "/forget", "/correct", "/pin", "/unpin", "/sessions", "/quit"):
        assert f"\n {name} " in shown
    assert "Ctrl+J" not in shown  # a key of the full screen


def test_why_shows_what_was_recalled_and_why() -> None:
    talk(FACT, session="monday")
    shown = talk("/why", QUESTION, "/why", session="tuesday").stdout
    assert "No message was sent in this conversation yet." in shown
    assert "(1 recollection, " in shown or "(2 recollections, " in shown
    assert "It holds 100%" in shown
    assert "in_memory took" in shown


def test_why_after_nothing_came_to_mind() -> None:
    assert "Nothing relevant was found." in talk("hello", "/why").stdout


def test_sessions_are_listed() -> None:
    talk("hello", session="monday")
    shown = talk("hello", "/sessions", session="tuesday").stdout
    rows = [line.split() for line in shown.splitlines()]
    assert [row[0] for row in rows if row[-2:] == ["2", "hello"]] == ["monday", "tuesday"]


@pytest.mark.parametrize(
    "line",
    [
        "/hepl",
        "/",
        "/QUIT",
        "/forget",
        "/forget all",
        "/forget -1",
        "/forget 99",
        "/correct 1",
        "/pin 99",
        "/unpin",
    ],
)
def test_a_wrong_command_is_explained_and_the_chat_goes_on(home: Home, line: str) -> None:
    done = talk(line, "still here")
    assert done.exit_code == 0
    assert "Error: " in done.stdout
    assert stored_turns(home)[0] == "monday/user: still here"


def test_an_unknown_command_names_the_known_ones() -> None:
    shown = " ".join(talk("/hepl").stdout.split())
    assert f"There is no command /hepl. Known: {', '.join(COMMANDS)}." in shown


def test_forget_last_removes_the_last_message_and_its_reply(home: Home) -> None:
    shown = talk("keep this", "forget this", "/forget last", "y").stdout
    assert "Forget this for good?" in shown
    assert "Forgot 2 turns." in shown
    assert stored_turns(home) == ["monday/user: keep this", "monday/assistant: keep this"]


def test_forgetting_by_number_takes_all_replies_that_saw_it(home: Home) -> None:
    shown = talk("keep", "/forget 1", "yes").stdout
    assert "     1 " in shown
    assert "     2 " in shown
    assert stored_turns(home) == []


def test_a_turn_is_corrected_in_the_chat(home: Home) -> None:
    shown = talk("My dog is called Basket.", f"/correct last {FACT}", "y").stdout
    assert "Turn 3 takes the place of turn 1." in shown
    assert stored_turns(home) == [f"monday/user: {FACT}"]


def test_what_is_pinned_is_in_every_prompt_until_it_is_unpinned() -> None:
    assert "In every prompt:\n     1 " in talk(FACT, "/pin last", session="monday").stdout
    shown = talk("Tell me a joke.", "/why", "/unpin 1", "/pin", session="tuesday").stdout
    assert "It is pinned." in " ".join(shown.split())
    assert "Nothing is pinned." in shown


@pytest.mark.parametrize("answer", ["n", "", "maybe"])
def test_a_forgetting_that_is_not_confirmed_changes_nothing(home: Home, answer: str) -> None:
    assert "Forgot" not in talk("keep this", "/forget last", answer).stdout
    assert stored_turns(home)[0] == "monday/user: keep this"


def test_a_line_that_is_not_utf8_is_not_sent_and_the_chat_goes_on(home: Home) -> None:
    done = chat("-s", "monday", stdin=b"caf\xe9\nstill here\n")
    assert done.exit_code == 0
    assert "The line is not valid UTF-8 at byte 3; it was not used." in done.stdout
    assert stored_turns(home)[0] == "monday/user: still here"


def test_escape_sequences_are_defused_in_the_chat_too() -> None:
    shown = talk("red \x1b[31m").stdout
    assert "red ·[31m" in shown
    assert "\x1b[31m" not in shown


def test_lines_after_an_answered_question_are_read(home: Home) -> None:
    talk("forget this", "/forget last", "y", "said afterwards")
    assert stored_turns(home)[-2:] == ["monday/user: said afterwards", "monday/assistant: said afterwards"]


@pytest.mark.parametrize("line", ["/[/foo]", "/[bold]x"])
def test_brackets_in_a_mistyped_command_are_no_markup(line: str) -> None:
    done = talk(line, "still here")
    assert done.exit_code == 0
    assert f"There is no command {line}." in done.stdout


@pytest.mark.parametrize("name", ["[/x]", "[red]"])
def test_brackets_in_a_sessions_name_are_no_markup(name: str) -> None:
    done = talk("hello", session=name)
    assert done.exit_code == 0
    assert f"session {name}." in done.stdout


@pytest.mark.parametrize("number", ["²", "99999999999999999999", "9" * 5000])
def test_a_number_no_turn_can_have_is_explained_and_the_chat_goes_on(home: Home, number: str) -> None:
    assert talk(f"/forget {number}", "still here").exit_code == 0
    assert stored_turns(home)[0] == "monday/user: still here"


def test_the_kinds_of_errors_reach_a_program_that_calls_the_command() -> None:
    kinds: dict[type[MemagentError], list[str]] = {
        NotFoundError: ["-p", "hi", "-b", "nosuch"],
        InputError: ["-p", " "],
        SettingError: ["-p", "hi", "--channel", "both"],
    }
    for kind, arguments in kinds.items():
        assert isinstance(chat(*arguments).exception, kind)
