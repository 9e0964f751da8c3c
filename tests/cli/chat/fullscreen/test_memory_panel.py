"""The memory panel: what was recalled, remembered and forgotten, and what can be done with it by keyboard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from textual.widgets import Static

from memagent.agent.engine.events import Recalled, Remembered, TurnBegan
from memagent.agent.memory import Memory
from memagent.agent.models.fakes import ScriptedModel
from memagent.backends.records import Recollection, Turn, WriteResult
from memagent.cli.chat.fullscreen.conversation_view import ConversationView
from memagent.cli.chat.fullscreen.dialogs import Confirmation
from memagent.cli.chat.fullscreen.memory_panel import MemoryPanel, RecordList
from memagent.cli.chat.fullscreen.message_input import MessageInput
from memagent.cli.chat.fullscreen.source_screen import SourceScreen, read_contexts
from memagent.cli.chat.fullscreen.turn_records import TurnRecord
from memagent.cli.rendering.phrases import age
from tests.cli.chat.fullscreen.driving import Screen, run, screen

OpenMemory = Callable[..., Memory]
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
BISCUIT = "My dog is called Biscuit."


@pytest.fixture
def memory(open_memory: OpenMemory) -> Memory:
    """A memory with a session of three days ago."""
    memory = open_memory()
    then = datetime.now(UTC) - timedelta(days=3, hours=1)
    for text in ("Good morning.", BISCUIT, "He is brown."):
        memory.remember("earlier", "user", text, created_at=then)
    return memory


def message(seq: int, text: str, role: str = "user") -> Turn:
    return Turn(seq, f"{seq:032x}", "monday", role, text, NOW)


def recollection(text: str, seqs: tuple[int, ...] = (1,), why: str = "It fits.") -> Recollection:
    return Recollection(text, 0.5, seqs, "earlier", "user", NOW - timedelta(days=3), why)


def row_texts(chat: Screen) -> list[str]:
    return [row.text.plain for row in chat.app.query_one(RecordList).rows]


def index_of(chat: Screen, part: str) -> int:
    return next(place for place, text in enumerate(row_texts(chat)) if part in text)


async def open_row(chat: Screen, part: str) -> SourceScreen:
    """Open the source of the first row that holds a text, by keyboard."""
    if not chat.app.query_one(MemoryPanel).has_class("-open"):
        await chat.pilot.press("f2")
    records = chat.app.query_one(RecordList)
    if not records.has_focus:
        await chat.pilot.press("tab")
    await chat.pilot.press("home")
    for _ in records.rows:
        if records.highlighted == index_of(chat, part):
            break
        await chat.pilot.press("down")
    await chat.pilot.press("enter")
    await chat.until(lambda: isinstance(chat.app.screen, SourceScreen) and chat.app.screen.query(".source"))
    source = chat.app.screen
    assert isinstance(source, SourceScreen)
    return source


async def confirm(chat: Screen, key: str = "y") -> str:
    """Answer the question that is shown; return its text and details."""
    await chat.until(lambda: isinstance(chat.app.screen, Confirmation))
    texts = [str(widget.content) for widget in chat.app.screen.query(Static)]
    await chat.pilot.press(key)
    await chat.until_idle()
    return "\n".join(texts)


def test_a_turn_shows_what_was_recalled_and_remembered(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
            texts = row_texts(chat)
            assert texts[0] == "What is my dog called?  turn 4"
            assert "recalled 1 in" in texts[1]
            recalled = texts[2]
            assert "3 days ago · user · earlier · turn 2" in recalled
            assert BISCUIT in recalled
            assert texts[3:] == ["  + message 4: stored", "  + reply 5: journal only"]

    run(main)


def test_nothing_recalled_is_said(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("Zzz?")
            assert "nothing was recalled" in row_texts(chat)[1]

    run(main)


def test_the_reason_of_the_marked_row_is_shown(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
            await chat.pilot.press("f2")
            reason = chat.app.query_one("#reason", Static)
            assert "in the journal only" in str(reason.content)
            await chat.pilot.press("up", "up")
            await chat.pilot.pause()
            assert "question's words" in str(reason.content)

    run(main)


def test_what_a_backend_says_of_a_turn_is_shown() -> None:
    results = {
        "titans": WriteResult(7, surprise=0.5, strength=0.25),
        "context_bank": WriteResult(7, stored=False, merged_into=3, supersedes=(1, 2)),
    }
    record = TurnRecord(message(7, "hello"), remembered=[Remembered(message(7, "hello"), False, "", results)])
    assert [row.text.plain for row in record.rows((), NOW)[1:]] == [
        "  + message 7: titans stored, surprise 0.50, strength 0.25",
        "  + message 7: context_bank nothing new, merged into turn 3, replaces turn 1, 2",
    ]


def test_superseded_regenerated_pinned_and_omitted_recollections_are_marked() -> None:
    superseded = replace(
        recollection("It was red.", (1,)), superseded_by=9, superseded_at=NOW - timedelta(hours=2)
    )
    regenerated = replace(recollection("It is blue.", (3, 4)), regenerated=True)
    record = TurnRecord(message(10, "hello"), Recalled((superseded, regenerated), (superseded,), 0.004))
    rows = [row.text.plain for row in record.rows({1}, NOW)]
    assert "recalled 2 in 4 ms, 1 did not fit the prompt" in rows[1]
    assert "outdated for 2 hours, see turn 9 · pinned · 3 days ago" in rows[2]
    assert "regenerated · 3 days ago · user · earlier · turn 3 and 1 more · not in the prompt" in rows[3]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "a moment"),
        (59, "a moment"),
        (60, "1 minute"),
        (7200, "2 hours"),
        (86_400 * 3, "3 days"),
        (86_400 * 800, "2 years"),
    ],
)
def test_an_age_has_its_largest_unit(seconds: float, text: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == text


def test_the_source_is_shown_in_its_session(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
            source = await open_row(chat, BISCUIT)
            texts = [str(widget.content) for widget in source.query("#turns > Static").results(Static)]
            assert texts == [
                "user, turn 1\nGood morning.",
                f"user, turn 2\n{BISCUIT}",
                "user, turn 3\nHe is brown.",
            ]
            facts = str(source.query_one("#facts", Static).content)
            assert "session earlier" in facts
            assert "(3 days ago)" in facts
            assert "Score" in facts
            await chat.pilot.press("escape")
            assert not isinstance(chat.app.screen, SourceScreen)

    run(main)


def test_a_recollection_of_several_turns_has_several_sources(memory: Memory) -> None:
    memory.remember("later", "user", BISCUIT)

    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
            source = await open_row(chat, "and 1 more")
            first = source.turn.seq
            await chat.pilot.press("right")
            assert {first, source.turn.seq} == {2, 4}
            await chat.pilot.press("right")
            assert source.turn.seq == first

    run(main)


def test_a_turn_is_forgotten_from_the_panel_after_a_question(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory, ScriptedModel(["He is Biscuit."])) as chat:
            await chat.send("What is my dog called?")
            await open_row(chat, BISCUIT)
            await chat.pilot.press("f")
            question = await confirm(chat)
            assert BISCUIT in question
            assert "He is Biscuit." in question  # the reply that goes too
            assert not any("Biscuit" in turn.text for turn in memory.journal.turns())
            assert not any("Biscuit" in text for text in [*row_texts(chat), *chat.texts()])
            assert row_texts(chat)[-1] == "- forgot turns 2, 5 for good"
            assert any("what was recalled is forgotten" in text for text in row_texts(chat))

    run(main)


def test_no_keeps_the_turn(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
            before = row_texts(chat)
            await open_row(chat, BISCUIT)
            await chat.pilot.press("f")
            await confirm(chat, "n")
            assert memory.journal.get([2])
            assert row_texts(chat) == before

    run(main)


def test_a_turn_is_corrected_from_the_panel(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
            source = await open_row(chat, BISCUIT)
            await chat.pilot.press("c")
            field = source.query_one(MessageInput)
            assert field.text == BISCUIT
            await chat.pilot.press(*["backspace"] * len("Biscuit."), *"Max.", "enter")
            assert "My dog" in await confirm(chat)
            texts = [turn.text for turn in memory.journal.turns()]
            assert "My dog is called Max." in texts
            assert BISCUIT not in texts
            assert not any("Biscuit" in text for text in row_texts(chat))

    run(main)


def test_escape_ends_a_correction_and_the_same_text_changes_nothing(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
            source = await open_row(chat, BISCUIT)
            await chat.pilot.press("c", "x", "escape")
            assert chat.app.screen is source
            assert not source.has_class("-correcting")
            await chat.pilot.press("c", "enter")
            assert chat.app.screen is source
            await chat.pilot.press("escape")
            assert chat.app.screen is not source

    run(main)
    assert memory.journal.get([2])[0].text == BISCUIT


def test_a_turn_is_pinned_and_unpinned_from_the_panel(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
            for seqs in ([2], []):
                await open_row(chat, BISCUIT)
                await chat.pilot.press("p")
                await chat.until_idle()
                assert [turn.seq for turn in memory.journal.pinned()] == seqs
                assert ("pinned" in row_texts(chat)[2]) == bool(seqs)

    run(main)


def test_a_turn_is_copied_from_the_panel(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
            await open_row(chat, BISCUIT)
            await chat.pilot.press("y")
            assert chat.app.clipboard == BISCUIT

    run(main)


def test_a_resumed_session_shows_what_its_replies_recalled(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
        async with screen(memory) as chat:
            texts = row_texts(chat)
            assert texts[0] == "What is my dog called?  turn 4"
            assert "recalled  3 days ago · user · earlier · turn 2" in texts[1]
            assert BISCUIT in texts[1]
            await open_row(chat, BISCUIT)

    run(main)


def test_another_session_has_its_own_rows(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
            await chat.send("/new tuesday")
            assert row_texts(chat) == []
            await chat.send("/resume monday")
            assert row_texts(chat)[0] == "What is my dog called?  turn 4"

    run(main)


def test_what_is_typed_in_the_list_goes_to_the_message(memory: Memory) -> None:
    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
            await chat.pilot.press("f2")
            assert isinstance(chat.app.focused, RecordList)
            await chat.type("Hi there")
            assert isinstance(chat.app.focused, MessageInput)
            assert chat.draft == "Hi there"
            await chat.pilot.press("f2")
            assert not chat.app.query_one(MemoryPanel).has_class("-open")
            assert chat.draft == "Hi there"

    run(main)


@pytest.mark.parametrize("size", [(80, 24), (40, 12)])
def test_in_a_narrow_terminal_the_panel_takes_the_conversations_place(
    memory: Memory, size: tuple[int, int]
) -> None:
    async def main() -> None:
        async with screen(memory, size=size) as chat:
            await chat.send("What is my dog called?")
            await chat.pilot.press("f2")
            panel, view = chat.app.query_one(MemoryPanel), chat.app.query_one(ConversationView)
            field = chat.app.query_one(MessageInput)
            assert panel.region.width == size[0]
            assert panel.region.height >= 3
            assert not view.display or view.region.area == 0
            assert field.region.bottom < size[1]
            assert not panel.region.overlaps(field.region)
            await chat.send("Still here?")
            assert row_texts(chat)[-1] == "  + reply 7: journal only"
            await open_row(chat, BISCUIT)
            await chat.pilot.press("escape", "f2")
            assert view.region.width == size[0]
            assert chat.texts()[-1] == "Still here?"

    run(main)


HOSTILE = (
    "\x1b]0;title\x07\x1b[31m[bold]x[/bold]",
    "漢字" * 300,
    "x" * 20_000,
    "a\nb\tc\u202ed" * 30,
    "[/]",
    "🏳️‍🌈" * 99,
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_shown_as_text_on_few_lines(memory: Memory, text: str) -> None:
    item = replace(recollection(text, why=text), session=text, speaker=text)
    turn = message(9, text)

    async def main() -> None:
        async with screen(memory, size=(80, 24)) as chat:
            await chat.pilot.press("f2")
            panel = chat.app.query_one(MemoryPanel)
            for event in (
                TurnBegan(turn),
                Recalled((item,), (), 0.0),
                Remembered(turn, True, text, {}),
                Remembered(turn, False, text, {text: WriteResult(9)}),
            ):
                panel.show_event(event)
            await chat.pilot.press("up", "up", "up")
            await chat.pilot.pause()
            shown = "".join(row_texts(chat)) + str(chat.app.query_one("#reason", Static).content)
            assert not any(character in shown for character in "\x1b\x07\u202e")
            assert all(len(row) < 500 and row.count("\n") <= 1 for row in row_texts(chat))
            assert chat.app.query_one(MessageInput).region.bottom < 24

    run(main)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_source_is_shown_as_text(open_memory: OpenMemory, text: str) -> None:
    memory = open_memory()
    memory.remember("earlier", "user", text)
    (context,) = read_contexts(memory.journal, [1])

    async def main() -> None:
        async with screen(memory, size=(80, 24)) as chat:
            panel = chat.app.query_one(MemoryPanel)
            panel.show_event(TurnBegan(context.turn))
            source = await open_row(chat, "turn 1")
            shown = "".join(str(widget.content) for widget in source.query(Static))
            assert not any(character in shown for character in "\x1b\x07\u202e")
            assert source.query_one("#keys").region.bottom < 24

    run(main)


def test_a_source_has_neighbours_of_its_own_session_only(open_memory: OpenMemory) -> None:
    memory = open_memory()
    for number in range(1, 13):
        memory.remember("even" if number % 2 == 0 else "odd", "user", f"Number {number}.")

    def seqs(turns: Sequence[Turn]) -> list[int]:
        return [turn.seq for turn in turns]

    (context,) = read_contexts(memory.journal, [8, 99])
    assert context.turn.seq == 8
    assert seqs(context.before) == [2, 4, 6]
    assert seqs(context.after) == [10, 12]
