"""The list of sessions on the full screen: search, continue, begin, delete."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from textual.widgets import Input, OptionList, Static

from memagent.agent.journal import Session
from memagent.agent.memory import Memory
from memagent.cli.chat.fullscreen.dialogs import Confirmation
from memagent.cli.chat.fullscreen.session_search import SessionRow, list_sessions, search_texts
from memagent.cli.chat.fullscreen.sessions_screen import SessionsScreen
from tests.cli.chat.fullscreen.driving import Screen, StepModel, run, screen

OpenMemory = Callable[..., Memory]
NAMES = ["monday", "[red]my trip[/red]", "tuesday"]
NOW = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


@pytest.fixture
def memory(open_memory: OpenMemory) -> Memory:
    """Three sessions; tuesday has the latest turn."""
    memory = open_memory()
    memory.remember("monday", "user", "My dog is called Biscuit.")
    memory.remember("[red]my trip[/red]", "user", "[bold]I fly\x1b[2J to 宽宽 Porto.\n" * 9)
    memory.remember("tuesday", "user", "Good morning.")
    memory.remember("tuesday", "user", "My password is pineapple.")
    return memory


async def opened(chat: Screen) -> SessionsScreen:
    await chat.type("", "f3")
    await chat.until(lambda: isinstance(chat.app.screen, SessionsScreen) and chosen(chat))
    sessions = chat.app.screen
    assert isinstance(sessions, SessionsScreen)
    return sessions


def chosen(chat: Screen) -> str | None:
    sessions = chat.app.screen
    return sessions.chosen.name if isinstance(sessions, SessionsScreen) and sessions.chosen else None


def shown(chat: Screen) -> list[str]:
    """What the list shows, each session on one line."""
    options = chat.app.screen.query_one(OptionList)
    return [
        str(options.get_option_at_index(place).prompt).replace("\n", " | ")
        for place in range(options.option_count)
    ]


def note(chat: Screen) -> str:
    return str(chat.app.screen.query_one("#note", Static).content)


def names(memory: Memory) -> list[str]:
    return [session.name for session in memory.journal.sessions()]


def test_sessions_are_listed_with_title_age_and_turns_and_enter_continues_one(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory, size=(80, 24)) as chat:
            await opened(chat)
            assert chosen(chat) == "tuesday"
            latest, trip, monday = shown(chat)
            assert latest == "Good morning. | tuesday · just now · 2 turns"
            assert trip.startswith("[bold]I fly·[2J to 宽宽 Porto. [bold]")
            assert trip.endswith("| [red]my trip[/red] · just now · 1 turn")
            assert monday == "My dog is called Biscuit. | this session · monday · just now · 1 turn"
            assert chat.app.screen.query_one(OptionList).virtual_size.width <= 80
            await chat.type("", "down", "enter")
            await chat.until_idle()
            assert len(chat.app.screen_stack) == 1
            assert chat.app.pane.chat is not None
            assert chat.app.pane.chat.conversation.session == "[red]my trip[/red]"
            assert chat.texts()[-1] == "Session [red]my trip[/red] continues."

    run(main)


def test_typing_filters_titles_and_names_and_then_searches_what_was_said(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await opened(chat)
            await chat.type("BISC")
            assert [row.partition(" |")[0] for row in shown(chat)] == ["My dog is called Biscuit."]
            await chat.type("", *["backspace"] * 4, *"my")
            assert [row.partition(" |")[0][:8] for row in shown(chat)] == ["[bold]I ", "My dog i"]
            await chat.until(lambda: len(shown(chat)) == 3)
            assert shown(chat)[0].endswith("| My password is pineapple.")
            await chat.type("zzz")
            await chat.until(lambda: note(chat) == "Nothing was said that contains this text.")
            assert shown(chat) == []
            await chat.type("", "enter", "delete")
            assert isinstance(chat.app.screen, SessionsScreen)
            await chat.type("", "escape")
            assert len(chat.app.screen_stack) == 1

    run(main)


def test_delete_asks_and_forgets_the_session_for_good(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await opened(chat)
            await chat.type("", "delete")
            await chat.until(lambda: isinstance(chat.app.screen, Confirmation))
            await chat.type("", "n")
            await chat.until_idle()
            assert names(memory) == NAMES
            await chat.type("", "down", "delete")
            await chat.until(lambda: isinstance(chat.app.screen, Confirmation))
            await chat.type("", "y")
            await chat.until_idle()
            await chat.until(lambda: len(shown(chat)) == 2)
            assert names(memory) == ["monday", "tuesday"]
            await chat.type("", "escape")
            assert chat.texts()[-1] == "Deleted session '[red]my trip[/red]': 1 turn forgotten."

    run(main)
    assert [turn.text for turn in memory.journal.turns()] == [
        "My dog is called Biscuit.",
        "Good morning.",
        "My password is pineapple.",
    ]


def test_the_session_in_use_can_be_deleted(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            assert chat.texts()[0] == "My dog is called Biscuit."
            await opened(chat)
            await chat.type("", "up", "delete")
            await chat.until(lambda: isinstance(chat.app.screen, Confirmation))
            await chat.type("", "y")
            await chat.until_idle()
            await chat.type("", "escape")
            assert "My dog is called Biscuit." not in chat.texts()
            await chat.send("Hello again.")

    run(main)
    assert names(memory) == ["[red]my trip[/red]", "tuesday", "monday"]


def test_control_n_begins_a_session_and_slash_sessions_opens_the_list(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.type("/sessions", "enter")
            await chat.until(lambda: isinstance(chat.app.screen, SessionsScreen))
            await chat.until(lambda: not chat.app.pane.is_busy)
            await chat.type("", "ctrl+n")
            await chat.until_idle()
            assert chat.app.pane.chat is not None
            assert chat.app.pane.chat.conversation.session not in NAMES
            assert len(chat.app.screen_stack) == 1

    run(main)


def test_nothing_is_changed_while_a_reply_is_in_progress(memory: Memory) -> None:
    model = StepModel("Yes.")

    async def main() -> None:
        async with screen(memory, model) as chat:
            await chat.type("Are you there?", "enter")
            await opened(chat)
            await chat.type("", "enter", "delete", "ctrl+n")
            assert isinstance(chat.app.screen, SessionsScreen)
            await chat.type("", "ctrl+c")
            assert len(chat.app.screen_stack) == 1
            assert chat.app.pane.is_busy
            model.step()
            await chat.until_idle()
            assert chat.texts()[-1] == "Yes."

    run(main)


def test_without_an_open_chat_there_is_no_list(memory: Memory) -> None:
    gate = threading.Event()

    async def main() -> None:
        async with screen(memory, gate=gate) as chat:
            await chat.type("", "f3")
            assert len(chat.app.screen_stack) == 1
            gate.set()
            await chat.until_idle()
            await opened(chat)
            assert chat.app.screen.query_one(Input).has_focus

    run(main)


def test_a_search_ends_when_it_is_cancelled_and_after_a_hundred_sessions(memory: Memory) -> None:
    rows = list_sessions(memory.journal)
    assert [row.name for row in search_texts(memory.journal, "my", rows, lambda: False)] == [
        "tuesday",
        "monday",
    ]
    assert list(search_texts(memory.journal, "my", rows, lambda: True)) == []
    assert len(list(search_texts(memory.journal, "my", rows * 60, lambda: False))) == 100


def test_an_excerpt_begins_before_the_text(open_memory: OpenMemory) -> None:
    memory = open_memory()
    memory.remember("monday", "user", "Hello.")
    memory.remember("monday", "user", f"{'a ' * 300}ẞnow\nstorm{' b' * 300}")
    (match,) = search_texts(
        memory.journal, "SSNOW STORM".replace(" ", "\n"), list_sessions(memory.journal), lambda: False
    )
    assert match.excerpt.startswith("...a a")
    assert "ẞnow storm b b" in match.excerpt
    assert len(match.excerpt) < 130


@pytest.mark.parametrize(
    ("days", "expected"),
    [(0, "just now"), (1, "1 day ago"), (13, "13 days ago"), (21, "21 days ago"), (90, "2 months ago")],
)
def test_a_row_says_how_old_the_last_turn_is(days: int, expected: str) -> None:
    match = SessionRow(Session("monday", NOW, 1, NOW - timedelta(days=days), ""))
    assert match.prompt(NOW, is_current=False).plain == f"(without a message)\nmonday · {expected} · 1 turn"
    assert "no turn left" in SessionRow(Session("monday", NOW, 0, None)).prompt(NOW, is_current=False).plain
