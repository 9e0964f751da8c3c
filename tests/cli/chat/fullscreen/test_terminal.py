"""The full-screen chat as a program in a real terminal: start, leave, signals, small and old terminals."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memagent.agent.home import Home
from memagent.agent.memory import open_journal

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

from tests.terminal import Terminal, memagent

FIELD = "Write a message"
ECHO = ("chat", "--user", "ana", "--session", "monday", "--backend", "in_memory", "--model", "echo")
SLOW = [sys.executable, str(Path(__file__).with_name("slow_program.py"))]


@pytest.fixture
def environment(home: Home) -> dict[str, str]:
    return {"TZ": "UTC"}


def stored(home: Home) -> list[str]:
    with open_journal(home, "ana", read_only=True) as journal:
        return [turn.text for turn in journal.turns()]


@pytest.mark.parametrize("terminal_name", ["xterm-256color", "linux", "screen-256color"])
def test_a_conversation_from_start_to_end(
    home: Home, environment: dict[str, str], terminal_name: str
) -> None:
    with Terminal(memagent(*ECHO), {**environment, "TERM": terminal_name}) as terminal:
        terminal.wait_for(FIELD)
        terminal.type("My dog is called Biscuit.\r")
        terminal.wait_for(lambda: terminal.text().count("My dog is called Biscuit.") == 2)
        terminal.type("\x04")
        assert terminal.wait() == 0
        assert terminal.is_restored()
        assert "Continue with: memagent chat" in terminal.text()
    assert stored(home) == ["My dog is called Biscuit."] * 2


def test_a_dumb_terminal_gets_lines(home: Home, environment: dict[str, str]) -> None:
    with Terminal(memagent(*ECHO), {**environment, "TERM": "dumb"}) as terminal:
        terminal.wait_for("/help lists the commands.")
        terminal.type("My dog is called Biscuit.\n")
        terminal.wait_for(lambda: terminal.text().count("My dog is called Biscuit.") == 2)
        terminal.type("/quit\n")
        assert terminal.wait() == 0
        assert b"\x1b" not in terminal.output
    assert stored(home) == ["My dog is called Biscuit."] * 2


def test_a_small_terminal_that_is_resized(home: Home, environment: dict[str, str]) -> None:
    with Terminal(memagent(*ECHO), environment, (30, 10)) as terminal:
        terminal.wait_for("Write a")
        terminal.resize(120, 40)
        terminal.wait_for(FIELD)
        terminal.type("Still here.\r")
        terminal.wait_for(lambda: terminal.text().count("Still here.") == 2)
        terminal.type("\x03\x03")
        assert terminal.wait() == 0
        assert terminal.is_restored()


@pytest.fixture
def replying(home: Home, environment: dict[str, str]) -> Iterator[Terminal]:
    """A terminal in which a model is replying."""
    with Terminal([*SLOW, *ECHO], environment) as terminal:
        terminal.wait_for(FIELD)
        terminal.type("Tell me a long story.\r")
        terminal.wait_for("word1")
        yield terminal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_a_reply_restores_the_terminal_and_stores_the_turn(
    home: Home, replying: Terminal, number: int
) -> None:
    replying.process.send_signal(number)
    assert replying.wait() == 0
    assert replying.is_restored()
    message, reply = stored(home)
    assert message == "Tell me a long story."
    assert reply.startswith("word0 word1")


def test_a_kill_in_the_middle_of_a_reply_loses_no_message(home: Home, replying: Terminal) -> None:
    replying.process.kill()
    replying.wait()
    assert stored(home) == ["Tell me a long story."]


def test_esc_stops_a_reply_and_ctrl_d_leaves(home: Home, replying: Terminal) -> None:
    replying.type("\x1b")
    replying.wait_for("stopped")
    replying.type("\x04")
    assert replying.wait() == 0
    assert len(stored(home)) == 2


def test_an_error_at_the_start_is_printed_on_the_restored_terminal(
    environment: dict[str, str], home: Home
) -> None:
    with Terminal(memagent(*ECHO[:-1], "no-such-model"), environment) as terminal:
        assert terminal.wait() == 1
        assert terminal.is_restored()
        assert "no-such-model" in terminal.output.rpartition(b"\x1b[?1049l")[2].decode()


@pytest.mark.slow
def test_the_default_model_remembers_in_a_second_session(home: Home, environment: dict[str, str]) -> None:
    command = ("chat", "--user", "ana", "--backend", "rag", "--embedder", "all-minilm-l6-v2")
    with Terminal(memagent(*command, "--session", "monday"), environment) as terminal:
        terminal.wait_for(FIELD)
        terminal.type("My dog is called Biscuit.\r")
        terminal.wait_for(lambda: home.journal_file("ana").exists() and len(stored(home)) == 2, 240)
        terminal.type("\x04")
        assert terminal.wait() == 0
    with Terminal(memagent(*command, "--session", "tuesday"), environment) as terminal:
        terminal.wait_for(FIELD)
        terminal.type("What is my dog called?\r")
        terminal.wait_for("Biscuit", 240)
        terminal.wait_for("1 recollection in view")
        terminal.type("\x04")
        assert terminal.wait() == 0
