"""The line editor of the terminal chat, typed into through a pipe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO

import pytest
from prompt_toolkit.application import create_app_session, get_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.output.vt100 import Vt100_Output

from memagent.agent.engine.conversation import Conversation
from memagent.agent.memory import Memory
from memagent.agent.models.fakes import EchoModel, ScriptedModel
from memagent.cli.chat import terminal

ENTER, NEW_LINE, ALT_ENTER, LEAVE, INTERRUPT, UP, TAB = "\r", "\n", "\x1b\r", "\x04", "\x03", "\x1b[A", "\t"
OpenMemory = Callable[..., Memory]


@pytest.fixture
def keyboard() -> Iterator[PipeInput]:
    """What is sent here is typed."""
    with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
        yield typed


@pytest.fixture
def memory(open_memory: OpenMemory) -> Memory:
    return open_memory()


@pytest.fixture
def read(memory: Memory) -> Callable[[], str]:
    return terminal._line_editor(Conversation(memory, EchoModel(), "monday"))


def test_enter_sends(keyboard: PipeInput, read: Callable[[], str]) -> None:
    keyboard.send_text("My dog is called Biscuit." + ENTER + "second" + ENTER)
    assert read() == "My dog is called Biscuit."
    assert read() == "second"


@pytest.mark.parametrize("key", [NEW_LINE, ALT_ENTER])
def test_a_new_line_does_not_send(keyboard: PipeInput, read: Callable[[], str], key: str) -> None:
    keyboard.send_text("first line" + key + "second line" + ENTER)
    assert read() == "first line\nsecond line"


def test_leaving_is_the_end_of_input(keyboard: PipeInput, read: Callable[[], str]) -> None:
    keyboard.send_text(LEAVE)
    with pytest.raises(EOFError):
        read()


def test_interrupting_an_empty_prompt_twice_leaves(
    keyboard: PipeInput, read: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    keyboard.send_text(INTERRUPT + INTERRUPT)
    with pytest.raises(EOFError):
        read()
    assert "Press Ctrl+C again" in capsys.readouterr().out


def test_interrupting_once_drops_the_line_only(keyboard: PipeInput, read: Callable[[], str]) -> None:
    keyboard.send_text("dropped" + INTERRUPT + "kept" + ENTER)
    assert read() == "kept"


def test_what_the_user_said_before_is_the_history(keyboard: PipeInput, memory: Memory) -> None:
    memory.remember("sunday", "user", "what I said last")
    memory.remember("sunday", "assistant", "what was answered")
    read = terminal._line_editor(Conversation(memory, EchoModel(), "monday"))
    keyboard.send_text(UP + "!" + ENTER)
    assert read() == "what I said last!"


def test_the_history_shows_harmless_text_and_gives_back_what_was_said(memory: Memory) -> None:
    evil = "Biscuit\u202ecod\u2066\x9b31m\x1b[2J"
    memory.remember("sunday", "user", evil)
    screen = StringIO()
    output = Vt100_Output(screen, lambda: Size(rows=24, columns=80))
    with create_pipe_input() as typed, create_app_session(input=typed, output=output):
        read = terminal._line_editor(Conversation(memory, EchoModel(), "monday"))
        typed.send_text(UP + ENTER)
        assert read() == evil
    assert "Biscuit·cod··31m·[2J" in screen.getvalue()
    assert not {"\u202e", "\u2066", "\x9b"} & set(screen.getvalue())


def test_commands_are_completed(keyboard: PipeInput, read: Callable[[], str]) -> None:
    session = get_app_session()

    def send_when_completed() -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not (
            session.app and session.app.current_buffer.text == "/help"
        ):
            time.sleep(0.02)
        keyboard.send_text(ENTER)

    keyboard.send_text("/he" + TAB)
    patient = threading.Thread(target=send_when_completed)
    patient.start()
    assert read() == "/help"
    patient.join()


def test_a_whole_conversation_is_typed(
    keyboard: PipeInput, memory: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ScriptedModel(["Noted.", "Again noted."])
    keyboard.send_text(
        "My dog is" + NEW_LINE + "Biscuit." + ENTER + ENTER + "/why" + ENTER + "Bye" + ENTER + LEAVE
    )
    terminal.converse(Conversation(memory, model, "monday"), plain=False)
    shown = capsys.readouterr().out
    assert "scripted with in_memory memory, session monday" in shown
    assert "Noted." in shown
    assert "Again noted." in shown
    assert "Continue with: memagent chat --session monday" in shown
    assert [turn.text for turn in memory.journal.turns(session="monday")] == [
        "My dog is\nBiscuit.",
        "Noted.",
        "Bye",
        "Again noted.",
    ]
