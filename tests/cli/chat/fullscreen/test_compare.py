"""Memories on the full screen: choosing another one, and comparing two."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from textual.widgets import OptionList, Static

from memagent.agent.home import Home
from memagent.agent.memory import Memory, follower
from memagent.agent.memory.lock import backend_lock
from memagent.backends.errors import ModelError
from memagent.backends.in_memory.backend import InMemory
from memagent.backends.records import Turn, WriteResult
from memagent.cli.chat.chat import Chat
from memagent.cli.chat.costs import describe_memories
from memagent.cli.chat.fullscreen.background import Progressed
from memagent.cli.chat.fullscreen.comparison_view import ComparisonView
from memagent.cli.chat.fullscreen.dialogs import Confirmation
from memagent.cli.chat.fullscreen.memories_screen import MemoriesScreen
from memagent.cli.chat.fullscreen.message_input import MessageInput
from memagent.cli.chat.fullscreen.progress_line import ProgressLine
from memagent.cli.chat.fullscreen.status_line import StatusLine
from memagent.cli.rendering.frontend import Frontend
from tests.cli.chat.fullscreen.driving import Screen, run, screen

OpenMemory = Callable[..., Memory]


@pytest.fixture
def memory(open_memory: OpenMemory) -> Memory:
    memory = open_memory()
    memory.remember("sunday", "user", "My dog is called Biscuit. [bold]\x1b[2J宽[/bold]")
    memory.remember("sunday", "user", "I live in Porto.")
    return memory


@pytest.fixture(autouse=True)
def close_others(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close every memory that a chat opens, and wait for none that is in use."""
    opened: list[Memory] = []
    open_ = Memory.open

    def note(*arguments: object, **options: object) -> Memory:
        opened.append(open_(*arguments, **{**options, "wait_seconds": 0.05}))  # type: ignore[arg-type] # as they came
        return opened[-1]

    monkeypatch.setattr(Memory, "open", note)
    yield
    for memory in opened:
        memory.close()


def status(chat: Screen) -> str:
    return str(chat.app.query_one(StatusLine).content)


async def enter(chat: Screen, line: str) -> None:
    """Put a line into the field and send it; pressing key by key takes seconds."""
    chat.app.query_one(MessageInput).text = line
    await chat.type("", "enter")


async def finished(chat: Screen, line: str) -> None:
    """Send a line and wait for its end."""
    await enter(chat, line)
    await chat.until_idle()


async def answered(chat: Screen, line: str, key: str = "y") -> None:
    """Send a command, answer its question, and wait for its end."""
    await enter(chat, line)
    await chat.until(lambda: isinstance(chat.app.screen, Confirmation))
    await chat.type("", key)
    await chat.until_idle()


def columns(chat: Screen) -> list[str]:
    """Return what each column of the last comparison shows."""
    view = list(chat.app.query(ComparisonView))[-1]
    return [
        "\n".join(str(static.content) for static in column.query(Static) if static.id is None)
        for column in view.query(".answer")
    ]


# another memory


def test_another_memory_is_used_after_saying_what_it_costs(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await enter(chat, "/backend bm25")
            await chat.until(lambda: isinstance(chat.app.screen, Confirmation))
            details = str(chat.app.screen.query_one("#details", Static).content)
            assert details == "bm25 has 2 turns to read: about 16 ms on two CPU cores."
            await chat.type("", "n")
            await chat.until_idle()
            assert "in_memory memory" in status(chat)
            await answered(chat, "/backend bm25")
            assert "bm25 memory" in status(chat)
            assert "channel text" in status(chat)
            assert chat.texts()[-1] == "bm25 is in use; memory reaches the model by the channel text."
            assert chat.app.pane.chat is not None
            assert chat.app.pane.chat.next_command.endswith("--backend bm25 --session monday")
            await answered(chat, "/backend bm25+in_memory")  # shares a part with the one in use
            assert "bm25+in_memory memory" in status(chat)
            await answered(chat, "/backend none")
            assert "none memory" in status(chat)
            await finished(chat, "/backend none")
            assert chat.texts()[-1] == "Error: none is in use already."

    run(main)


def test_a_memory_that_cannot_be_used_leaves_the_one_in_use(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await answered(chat, "/backend rope_map")
            assert chat.texts()[-1].startswith(
                "Error: This memory works inside a local model, and echo is not local."
            )
            await answered(chat, "/backend in_memory+rope_map")
            assert chat.texts()[-1].startswith("Error: This memory works inside a local model")
            assert "in_memory memory" in status(chat)
            await finished(chat, "/backend nosuch")
            assert chat.texts()[-1].startswith("Error: There is no backend 'nosuch'.")
            await finished(chat, "What is my dog called?")
            await finished(chat, "/why")
            assert "Biscuit" in chat.texts()[-1]

    run(main)


def test_a_memory_that_another_process_uses_leaves_the_one_in_use(memory: Memory, home: Home) -> None:
    lock = backend_lock(home, "ana", "bm25")
    lock.acquire(0)

    async def main() -> None:
        async with screen(memory) as chat:
            await answered(chat, "/backend bm25")
            assert "in use by process" in chat.texts()[-1]
            assert "in_memory memory" in status(chat)

    run(main)
    lock.release()


def test_reading_the_journal_shows_its_progress(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    remember, calls = InMemory.remember, iter(range(1000))

    def wait(self: InMemory, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        if next(calls) == 4:
            assert go_on.wait(20)
        return remember(self, turns)

    async def main() -> None:
        async with screen(memory) as chat:
            await answered(chat, "/backend none")
            assert chat.app.pane.chat is not None
            for number in range(40):
                chat.app.pane.chat.memory.remember("sunday", "user", f"Fact {number}.")
            monkeypatch.setattr(InMemory, "remember", wait)
            monkeypatch.setattr(follower, "_BATCH", 4)
            await enter(chat, "/backend in_memory")
            await chat.until(lambda: isinstance(chat.app.screen, Confirmation))
            await chat.type("", "y")
            line = chat.app.query_one(ProgressLine)
            await chat.until(lambda: line.display)
            assert str(line.content).startswith("Reading the journal into in_memory  ")
            assert "of 11" in str(line.content)
            go_on.set()
            await chat.until_idle()
            assert not line.display
            assert "in_memory memory" in status(chat)

    run(main)


def test_the_innermost_work_is_shown_and_a_failure_hides_the_line(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    def fail(_: Chat, backend: str, frontend: Frontend) -> None:
        for _outer in frontend.progress(range(2), total=2, label="Outer"):
            for _inner in frontend.progress(range(3), total=3, label="Inner"):
                pass
        frontend.report(3, 10, "tiny from the hub")
        raise ModelError("The network is gone.")

    show = ProgressLine.show

    def note(line: ProgressLine, progressed: Progressed) -> None:
        show(line, progressed)
        lines.append(str(line.content).split()[0])

    monkeypatch.setattr(Chat, "use_backend", fail)
    monkeypatch.setattr(ProgressLine, "show", note)

    async def main() -> None:
        async with screen(memory) as chat:
            await answered(chat, "/backend bm25")
            assert chat.texts()[-1] == "Error: The network is gone."
            assert not chat.app.query_one(ProgressLine).display

    run(main)
    assert lines[:2] == ["Outer", "Inner"]
    assert lines[-1] == "tiny"
    assert "Outer" in lines[3:-1]


def test_the_list_of_memories_says_what_each_is_and_costs(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory, size=(80, 24)) as chat:
            await enter(chat, "/backend")
            await chat.until(lambda: isinstance(chat.app.screen, MemoriesScreen))
            options = chat.app.screen.query_one(OptionList)
            await chat.until(lambda: options.option_count)
            await chat.until(lambda: not chat.app.pane.is_busy)
            prompts = [
                str(options.get_option_at_index(place).prompt) for place in range(options.option_count)
            ]
            assert "bm25 has 2 turns to read: about 16 ms on two CPU cores." in prompts[0]
            in_use = next(prompt for prompt in prompts if prompt.endswith("in use"))
            assert in_use.startswith("in_memory  Recalls the turns")
            assert options.highlighted == prompts.index(in_use)
            assert options.region.right <= 80
            await chat.type("", "home", "enter")
            await chat.until(lambda: isinstance(chat.app.screen, Confirmation))
            await chat.type("", "y")
            await chat.until_idle()
            assert "bm25 memory" in status(chat)
            await enter(chat, "/backend")
            await chat.until(lambda: isinstance(chat.app.screen, MemoriesScreen))
            await chat.type("", "escape")
            assert len(chat.app.screen_stack) == 1

    run(main)


# two memories


def test_two_memories_answer_side_by_side_and_nothing_is_stored(memory: Memory) -> None:
    before = memory.journal.last()

    async def main() -> None:
        async with screen(memory, size=(120, 30)) as chat:
            await finished(chat, "/compare What is my dog called?")
            assert not chat.app.query_one(ProgressLine).display
            first, second = columns(chat)
            assert first.startswith("in_memory (text)\n")
            assert second.startswith("bm25 (text)\n")
            assert "My dog is called Biscuit. [bold]·[2J宽[/bold]" in first
            assert "recall " in first.splitlines()[-1]
            left, right = chat.app.query(".answer")
            assert left.region.y == right.region.y
            assert right.region.x > 40
            await chat.pilot.resize_terminal(80, 24)
            await chat.until(lambda: right.region.x == left.region.x)
            assert right.region.right <= 80
            await finished(chat, "/compare none Where do I live?")
            assert "Nothing was recalled." in columns(chat)[1]
            await finished(chat, "/compare")
            assert chat.texts()[-1].startswith("Error: /compare takes a question")

    run(main)
    assert memory.journal.last() == before


# completion


def test_tab_completes_names_of_memories_and_sessions(memory: Memory) -> None:
    memory.remember("my [b]trip[/b]", "user", "I fly to Porto.")
    memory.remember("my house", "user", "It has a red door.")

    async def main() -> None:
        async with screen(memory, size=(80, 24)) as chat:
            shown = chat.app.query_one("#completions", Static)
            await chat.type("/backend r", "tab")
            assert chat.draft == "/backend rag"
            await chat.type("", "ctrl+u", *"/resume m", "tab")
            assert chat.draft == "/resume my "
            assert str(shown.content).splitlines() == ["/resume my house", "/resume my [b]trip[/b]"]
            await chat.type("", "h", "tab", "enter")
            await chat.until_idle()
            assert chat.texts()[-1] == "Session my house continues."
            await chat.type("/delete s", "tab")
            assert chat.draft == "/delete sunday"
            await chat.type("", "ctrl+u", *"/backend in", "tab")
            assert chat.draft == "/backend in"  # in use already

    run(main)


def test_descriptions_without_a_chat_say_what_a_turn_costs() -> None:
    memories = {memory.name: memory for memory in describe_memories()}
    assert memories["bm25"].cost == "About 8 ms for each turn on two CPU cores."
    assert "calibrates" in memories["rope_map"].cost
    assert memories["rag"].needs == {"embedder"}
    assert memories["none"].cost == ""
