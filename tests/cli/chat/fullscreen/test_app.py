"""The full-screen chat: messages, replies, keys, commands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from textual.events import Paste

from memagent.agent.journal import Journal
from memagent.agent.memory import Memory
from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.fakes import EchoModel, ScriptedModel
from memagent.backends.errors import ModelError, StorageError
from memagent.cli.chat.chat import Chat, Interface
from memagent.cli.chat.fullscreen.conversation_view import ConversationView
from memagent.cli.chat.fullscreen.dialogs import Confirmation
from memagent.cli.chat.fullscreen.message_input import MessageInput
from memagent.cli.chat.fullscreen.search_field import SearchField
from memagent.cli.chat.fullscreen.status_line import StatusLine, fitting
from tests.cli.chat.fullscreen.driving import StepModel, run, screen

OpenMemory = Callable[..., Memory]


@pytest.fixture
def memory(open_memory: OpenMemory) -> Memory:
    return open_memory()


def stored(memory: Memory) -> list[str]:
    return [turn.text for turn in memory.journal.turns()]


class FailingModel(EchoModel):
    """A model that fails after a word."""

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        yield "Half "
        raise ModelError("The model is out of memory.")


def test_a_reply_is_streamed_and_stored(memory: Memory) -> None:
    model = StepModel("Biscuit ", "is ", "a dog.")

    async def main() -> None:
        async with screen(memory, model) as chat:
            await chat.type("My dog is called Biscuit.", "enter")
            assert chat.draft == ""
            model.step()
            await chat.until(lambda: chat.texts()[-2:] == ["My dog is called Biscuit.", "Biscuit "])
            await chat.until(lambda: "replying" in str(chat.app.query_one(StatusLine).content))
            model.step(2)
            await chat.until_idle()
            assert chat.texts()[-1] == "Biscuit is a dog."
            await chat.until(lambda: "recall" in str(chat.app.query_one(StatusLine).content))
            assert "replying" not in str(chat.app.query_one(StatusLine).content)

    run(main)
    assert stored(memory) == ["My dog is called Biscuit.", "Biscuit is a dog."]


@pytest.mark.parametrize("key", ["escape", "ctrl+c"])
def test_a_stopped_reply_keeps_what_has_come(memory: Memory, key: str) -> None:
    model = StepModel("one ", "two ", "three")

    async def main() -> None:
        async with screen(memory, model) as chat:
            await chat.type("Count.", "enter")
            model.step()
            await chat.until(lambda: chat.texts()[-1] == "one ")
            await chat.pilot.press(key)
            model.step()
            await chat.until_idle()
            assert chat.texts()[-1] == "one two "
            assert chat.app.is_running

    run(main)
    assert stored(memory) == ["Count.", "one two"]


def test_a_message_is_written_while_the_chat_is_opened_and_sent_afterwards(memory: Memory) -> None:
    gate = threading.Event()

    async def main() -> None:
        async with screen(memory, gate=gate) as chat:
            await chat.type("Early.", "enter")
            await chat.type("Second.", "enter")
            await chat.until(lambda: len(chat.texts()) == 2)
            await chat.until(lambda: "loading the model" in str(chat.app.query_one(StatusLine).content))
            gate.set()
            await chat.until(lambda: len(stored(memory)) == 4)
            await chat.until_idle()

    run(main)
    assert stored(memory) == ["Early.", "Early.", "Second.", "Second."]


def test_a_failed_turn_gives_the_message_back(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory, FailingModel()) as chat:
            await chat.send("My dog is called Biscuit.")
            assert chat.texts()[-2:] == ["Half ", "Error: The model is out of memory."]
            assert chat.draft == "My dog is called Biscuit."

    run(main)


def test_what_does_not_fit_the_window_is_given_back_and_not_stored(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            field = chat.app.query_one(MessageInput)
            field.text = "word " * 9000
            await chat.pilot.press("enter")
            await chat.until_idle()
            assert "has room for" in chat.texts()[-1]
            assert "" not in chat.texts()
            assert chat.draft == "word " * 9000

    run(main)
    assert stored(memory) == []


def test_a_second_message_during_a_reply_stays_in_the_field(memory: Memory) -> None:
    model = StepModel("done")

    async def main() -> None:
        async with screen(memory, model) as chat:
            await chat.type("first", "enter")
            await chat.type("second", "enter")
            assert chat.draft == "second"
            model.step()
            await chat.until_idle()
            assert chat.draft == "second"

    run(main)
    assert stored(memory) == ["first", "done"]


def test_ctrl_c_puts_the_draft_aside_and_twice_leaves(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.type("a draft", "ctrl+c")
            assert chat.app.is_running
            assert chat.draft == ""
            await chat.pilot.press("up")
            assert chat.draft == "a draft"
            await chat.pilot.press("ctrl+c", "ctrl+c", "ctrl+c")
            await chat.until(lambda: not chat.app.is_running)

    run(main)


@pytest.mark.parametrize("leaving", ["ctrl+d", "/quit"])
def test_leaving(memory: Memory, leaving: str) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await (chat.type(leaving, "enter") if leaving.startswith("/") else chat.pilot.press(leaving))
            await chat.until(lambda: not chat.app.is_running)

    run(main)


def test_ctrl_d_does_not_lose_a_draft(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.type("a draft", "ctrl+d")
            assert chat.app.is_running
            assert chat.draft == "a draft"

    run(main)


@pytest.mark.parametrize("key", ["ctrl+j", "alt+enter", "shift+enter"])
def test_a_new_line_does_not_send(memory: Memory, key: str) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.type("first", key)
            await chat.type("second", "enter")
            await chat.until_idle()

    run(main)
    assert stored(memory)[0] == "first\nsecond"


def test_the_history_has_earlier_messages_and_keeps_the_draft(memory: Memory) -> None:
    memory.remember("sunday", "user", "said before")

    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("said now")
            await chat.type("draft", "up")
            assert chat.draft == "said now"
            await chat.pilot.press("up")
            assert chat.draft == "said before"
            await chat.pilot.press("up", "down", "down")
            assert chat.draft == "draft"

    run(main)


def test_commands_are_completed(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.type("/cor")
            await chat.pilot.pause()
            hint = chat.app.query_one("#completions")
            assert hint.has_class("-shown")
            await chat.pilot.press("tab")
            assert chat.draft == "/correct "
            await chat.type("last x")
            assert not hint.has_class("-shown")

    run(main)


def test_a_command_shows_its_result(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("/remember My dog is called Biscuit.")
            assert chat.texts()[-1] == "Remembered as turn 1."
            await chat.send("/hepl")
            assert "There is no command /hepl" in chat.texts()[-1]
            await chat.send("/help")
            assert "/forget" in chat.texts()[-1]

    run(main)


@pytest.mark.parametrize(("key", "left"), [("y", []), ("n", ["My PIN is 4711.", "My PIN is 4711."])])
def test_forgetting_is_confirmed(memory: Memory, key: str, left: list[str]) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("My PIN is 4711.")
            await chat.type("/forget last", "enter")
            await chat.until(lambda: isinstance(chat.app.screen, Confirmation))
            await chat.pilot.press(key)
            await chat.until_idle()
            assert any("4711" in text for text in chat.texts()) is bool(left)

    run(main)
    assert stored(memory) == left


def test_sessions_are_changed(memory: Memory) -> None:
    memory.remember("sunday", "user", "It rains.")

    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("/resume sunday")
            assert chat.texts() == ["It rains.", "Session sunday continues."]
            await chat.send("Still?")
            await chat.send("/new tuesday")
            assert "It rains." not in chat.texts()
            await chat.send("Hello.")

    run(main)
    assert [turn.session for turn in memory.journal.turns()] == ["sunday"] * 3 + ["tuesday"] * 2


def test_the_view_stays_where_the_reader_scrolled(memory: Memory) -> None:
    model = StepModel(*[f"line {number}\n\n" for number in range(80)])

    async def main() -> None:
        async with screen(memory, model, size=(80, 20)) as chat:
            await chat.type("Many lines.", "enter")
            model.step(40)
            view = chat.app.query_one(ConversationView)
            await chat.until(lambda: "line 39" in chat.texts()[-1] and view.max_scroll_y > 30)
            await chat.until(lambda: view.scroll_y == view.max_scroll_y)
            await chat.pilot.press("pageup", "pageup")
            await chat.pilot.pause()
            place = view.scroll_y
            assert place < view.max_scroll_y
            model.step(40)
            await chat.until_idle()
            assert view.scroll_y == place

    run(main)


def test_the_conversation_is_searched(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory, size=(80, 20)) as chat:
            for text in ("My dog is called Biscuit.", *[f"Filler {n}." for n in range(12)]):
                await chat.send(text)
            view = chat.app.query_one(ConversationView)
            await chat.pilot.press("ctrl+f")
            await chat.type("biscuit")
            await chat.until(
                lambda: len(chat.app.query(".match")) == 2 and view.scroll_y < view.max_scroll_y - 10
            )
            await chat.pilot.press("escape")
            assert not chat.app.query_one(SearchField).has_class("-shown")
            assert len(chat.app.query(".match")) == 0
            assert chat.app.focused is chat.app.query_one(MessageInput)

    run(main)


def test_the_last_reply_is_copied(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory, ScriptedModel(["**Noted.**"])) as chat:
            await chat.send("My dog is called Biscuit.")
            await chat.pilot.press("ctrl+y")
            assert chat.app.clipboard == "**Noted.**"

    run(main)


def test_a_paste_of_10_000_lines_is_sent_whole_and_shown_in_part(memory: Memory) -> None:
    text = "\n".join(f"l{number}" for number in range(7000))

    async def main() -> None:
        async with screen(memory) as chat:
            chat.app.post_message(Paste(text + "\n" * 3000 + "end"))
            await chat.until(lambda: chat.draft.endswith("end"))
            await chat.pilot.press("enter")
            await chat.until(lambda: len(stored(memory)) == 2)
            await chat.until_idle()

    run(main)
    assert stored(memory)[0] == text + "\n" * 3000 + "end"


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (200, 60)])
def test_odd_text_is_shown_without_control_characters(memory: Memory, size: tuple[int, int]) -> None:
    odd = "Biscuit\u202ecod\u2066\x9b31m\x1b[2J[bold]x[/] 犬の名前はビスケット 👩‍👩‍👧 " + "x" * 3000

    async def main() -> None:
        async with screen(memory, size=size) as chat:
            chat.app.query_one(MessageInput).text = odd
            await chat.pilot.press("enter")
            await chat.until_idle()
            shown = "".join(
                segment.text for line in chat.app.screen._compositor.render_strips() for segment in line
            )
            assert not {"\u202e", "\u2066", "\x9b", "\x1b"} & set(shown)

    run(main)
    assert stored(memory)[0] == odd


def test_a_resize_in_the_middle_of_a_reply_loses_nothing(memory: Memory) -> None:
    model = StepModel(*(f"word{number} " for number in range(20)))

    async def main() -> None:
        async with screen(memory, model, size=(120, 40)) as chat:
            await chat.type("Go on.", "enter")
            for width in (30, 200, 80):
                model.step(5)
                await chat.pilot.resize_terminal(width, 20)
            model.step(5)
            await chat.until_idle()
            assert chat.texts()[-1].split() == [f"word{number}" for number in range(20)]

    run(main)


def test_a_fault_ends_the_program_and_is_raised(memory: Memory) -> None:
    class Faulty(EchoModel):
        def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
            raise ZeroDivisionError

    async def main() -> None:
        async with screen(memory, Faulty()) as chat:
            await chat.type("Hello.", "enter")
            await chat.until(lambda: not chat.app.is_running)

    with pytest.raises(ZeroDivisionError):
        run(main)
    assert stored(memory) == ["Hello."]


def test_stored_text_does_not_act_on_the_terminal(memory: Memory) -> None:
    memory.remember("sunday", "user", "Biscuit\x1b]0;title\x07\u202ecod")

    async def main() -> None:
        async with screen(memory) as chat:
            await chat.pilot.press("up")
            field = chat.app.query_one(MessageInput)
            assert field.get_line(0).plain == "Biscuit·]0;title··cod"
            assert chat.draft == "Biscuit\x1b]0;title\x07\u202ecod"  # it is sent as it was

    run(main)


def test_completion_does_without_a_journal_that_cannot_be_read(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(journal: Journal) -> list[str]:
        raise StorageError("The journal is busy.")

    async def main() -> None:
        async with screen(memory) as chat:
            monkeypatch.setattr(Journal, "session_names", fail)
            await chat.type("/resume ", "tab")
            assert chat.draft == "/resume "
            assert chat.app.is_running

    run(main)


@pytest.mark.parametrize("editor", ["/no/such/editor", "'", "false"])
def test_an_editor_that_cannot_be_used_loses_no_draft(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, editor: str
) -> None:
    monkeypatch.setenv("VISUAL", editor)

    async def main() -> None:
        async with screen(memory) as chat:
            await chat.type("a draft", "ctrl+g")
            await chat.pilot.pause()
            assert chat.draft == "a draft"
            assert chat.app.is_running

    run(main)


def test_a_message_during_a_command_stays_in_the_field(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            gate = threading.Event()

            def wait(chat_: Chat, interface: Interface) -> None:
                gate.wait(10)

            chat.app.pane.start_command(wait)
            await chat.type("Hello.", "enter")
            assert chat.draft == "Hello."
            gate.set()
            await chat.until_idle()
            assert chat.draft == "Hello."

    run(main)


def test_what_another_process_forgets_leaves_screen_and_history(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("My PIN is 4711.")
            memory.forget([1])  # not by a command of this screen
            await chat.send("Hello.")
            assert not any("4711" in text for text in chat.texts())
            await chat.pilot.press("up", "up", "up")
            assert chat.draft == "Hello."

    run(main)


def test_a_comparison_is_stopped(open_memory: OpenMemory) -> None:
    model = StepModel("one ", "two ", "three")

    async def main() -> None:
        async with screen(open_memory(), model) as chat:
            await chat.type("/compare bm25 Hello?", "enter")
            model.step()
            await chat.until(lambda: chat.app.pane.chat is not None and chat.app.pane.chat.is_comparing)
            await chat.pilot.press("escape")
            model.step(3)
            await chat.until_idle()
            assert chat.texts()[-1] == "Error: The comparison was stopped."

    run(main)


@pytest.mark.parametrize(
    ("width", "line"),
    [(6, "model"), (15, "model"), (16, "model  ·  memory"), (80, "model  ·  memory  ·  犬犬")],
)
def test_the_status_line_leaves_out_the_last_fields_first(width: int, line: str) -> None:
    assert fitting(["model", "memory", "犬犬"], width) == line
