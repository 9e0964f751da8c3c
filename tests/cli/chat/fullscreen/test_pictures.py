"""Pictures of a memory on the screen: tables, grids, curves; drawn in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.widgets import DataTable, Static

from memagent.agent.engine.events import Remembered
from memagent.agent.memory import Memory
from memagent.backends.picture import Cell, Column, Grid, Picture, Series, Table
from memagent.backends.records import WriteResult
from memagent.cli.chat.fullscreen.memory_panel import MemoryPanel
from memagent.cli.chat.fullscreen.message_input import MessageInput
from memagent.cli.chat.fullscreen.picture_view import PictureView, surprise_series
from memagent.cli.chat.fullscreen.pictures import (
    MAX_ROWS,
    column_widths,
    grid_text,
    picture_widget,
    series_text,
    wrapped,
)
from memagent.cli.chat.fullscreen.plotting import plot, shade
from memagent.cli.chat.fullscreen.turn_records import TurnRecord
from tests.cli.chat.fullscreen.driving import Screen, run, screen
from tests.cli.chat.fullscreen.test_memory_panel import HOSTILE, message, open_row

OpenMemory = Callable[..., Memory]
NAN = float("nan")


@pytest.fixture
def memory(open_memory: OpenMemory) -> Memory:
    return open_memory()


def table(*rows: tuple[Cell, ...], labels: Sequence[str] = ("figure", "value")) -> Table:
    return Table("Figures", tuple(map(Column, labels)), rows)


class PictureApp(App[None]):
    """Shows one picture."""

    def __init__(self, picture: Any, width: int = 60) -> None:
        super().__init__()
        self._picture = picture
        self._width = width

    def compose(self) -> ComposeResult:
        yield picture_widget(self._picture, self._width)


async def shown_rows(picture: Table, width: int = 60) -> list[list[str]]:
    app = PictureApp(picture, width)
    async with app.run_test(size=(80, 24)):
        grid = app.query_one(DataTable)
        return [[cell.plain for cell in grid.get_row_at(place)] for place in range(grid.row_count)]


def view_of(chat: Screen) -> PictureView:
    return chat.app.query_one(PictureView)


async def draw(chat: Screen) -> None:
    """Show the pictures and wait until they are drawn."""
    await chat.pilot.press("f4")
    await chat.until(lambda: view_of(chat).sections and not view_of(chat).is_drawing)
    await chat.pilot.pause()


def view_texts(chat: Screen) -> list[str]:
    return [str(widget.content) for widget in view_of(chat).query(Static)]


# each kind


def test_a_table_shows_its_cells() -> None:
    async def main() -> None:
        rows = await shown_rows(table(("items", 1234), ("load", 0.25), ("ready", True), ("model", None)))
        assert rows == [["items", "1,234"], ["load", "0.25"], ["ready", "yes"], ["model", ""]]

    run(main)


def test_a_long_text_is_wrapped_within_the_width() -> None:
    long = "word " * 60
    widths = column_widths(["rank", "why"], [["1", long]], 60)
    assert widths == [4, 52]

    async def main() -> None:
        app = PictureApp(table((1, long), labels=("rank", "why")))
        async with app.run_test(size=(80, 24)) as pilot:
            grid = app.query_one(DataTable)
            while not grid.region.height:
                await pilot.pause(0.01)
            assert grid.region.width <= 60
            assert grid.region.height >= 6

    run(main)


def test_a_heading_is_wrapped_between_words() -> None:
    assert wrapped("importance of the other", 10) == ["importance", "of the", "other"]
    assert wrapped("漢字漢字", 3) == ["漢 "]
    assert wrapped("", 3) == [""]


def test_a_long_table_says_how_many_rows_are_not_shown() -> None:
    async def main() -> None:
        picture = table(*((f"row {number}", number) for number in range(MAX_ROWS + 7)))
        assert len(await shown_rows(picture)) == MAX_ROWS
        app = PictureApp(picture)
        async with app.run_test(size=(80, 24)):
            assert "7 more rows are not shown" in [str(widget.content) for widget in app.query(Static)]

    run(main)


def test_an_empty_table_is_said_to_be_empty() -> None:
    async def main() -> None:
        app = PictureApp(table())
        async with app.run_test():
            assert "(empty)" in [str(widget.content) for widget in app.query(Static)]

    run(main)


def test_a_grid_is_readable_without_colour() -> None:
    grid = Grid("Attention", ("layer 1", "layer 2"), ("turn 3", "turn 4"), ((0.0, 1.0), (0.5, NAN)), "share")
    assert grid_text(grid, 60).plain.split("\n") == [
        "Attention (share)",
        "         turn 3  turn 4",
        "layer 1    0.00 ██ 1.00",
        "layer 2 ▒▒ 0.50 ·······",
        "0.00 ░▒▓█ 1.00",
    ]


def test_a_grid_of_many_columns_lists_what_they_stand_for() -> None:
    columns = tuple(f"turn {number}: My dog is called Biscuit." for number in range(1, 21))
    text = grid_text(Grid("Attention", ("head",), columns, (tuple(map(float, range(20))),)), 60).plain
    assert "  1 turn 1: My dog is called Biscuit." in text
    assert text.split("\n")[1].split() == [str(number) for number in range(1, 21)]


def test_a_series_shows_each_curve_with_its_scale() -> None:
    series = Series("Surprise", "turn", (1.0, 2.0, 9.0), {"a": (0.0, 3.0, 1.0), "b": (1.0, NAN, 2.5)})
    lines = series_text(series, 40).plain.split("\n")
    assert lines[0] == "Surprise"
    assert lines[1] == "a"
    assert lines[2].startswith("3 │")
    assert lines[7].startswith("0 │")
    assert lines[9].split() == ["1", "turn", "9"]
    assert lines[10] == "b"
    assert all(cell_len(line) <= 40 for line in lines)


def test_a_curve_goes_through_its_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "linux")
    assert plot((0, 1, 2), (0, 2, 0), 5, 3) == ["  *  ", " * * ", "*   *"]
    monkeypatch.setenv("TERM", "xterm")
    assert plot((0, 1), (1, 1), 2, 1) == ["⠤⠤"]
    assert plot((), (), 2, 1) == ["  "]
    assert plot((1,), (NAN,), 2, 1) == ["  "]


def test_shades_follow_the_value() -> None:
    assert "".join(shade(value, 0, 4) for value in range(5)) == " ░▒▓█"
    assert shade(0.1, 0, 4) == "░"
    assert shade(0.01, 0, 4) == " "
    assert shade(1, 1, 1) == "▒"
    assert shade(float("inf"), 0, 1) == "·"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_in_pictures_are_shown_as_text(text: str) -> None:
    pictures: list[Any] = [
        Table(text, (Column(text, text),), ((text,),)),
        Grid(text, (text,), (text,), ((1.0,),), text),
        Series(text, text, (1.0, 2.0), {text: (1.0, 2.0)}, text, text),
        text,
    ]

    async def main() -> None:
        for picture in pictures:
            app = PictureApp(picture)
            async with app.run_test(size=(60, 20)):
                shown = "".join(str(widget.content) for widget in app.query(Static))
                shown += "".join(str(row) for grid in app.query(DataTable) for row in [grid.get_row_at(0)])
                assert not any(character in shown for character in "\x1b\x07\u202e")
                assert app.query_one(".picture").region.height < 200

    run(main)


# in the panel


def test_the_panel_draws_the_recall_and_the_memory(memory: Memory) -> None:
    memory.remember("earlier", "user", "My dog is called Biscuit.")

    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("What is my dog called?")
            await draw(chat)
            assert [section.heading for section in view_of(chat).sections] == [
                'Recall for "What is my dog called?"',
                "The memory: in_memory",
            ]
            assert len(view_of(chat).query(DataTable)) == 2
            await chat.pilot.press("f4")
            assert not chat.app.query_one(MemoryPanel).shows_pictures

    run(main)


def test_typing_works_while_the_memory_is_drawn(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    started = threading.Event()

    def picture(query: str = "", *, limit: int = 5) -> list[Picture]:
        started.set()
        assert gate.wait(20)
        return [table(("query", query))]

    monkeypatch.setattr(memory, "picture", picture)

    async def main() -> None:
        async with screen(memory) as chat:
            await chat.pilot.press("f4")
            await chat.until(started.is_set)
            await chat.until(lambda: any("Drawing the memory" in text for text in view_texts(chat)))
            await chat.pilot.press("escape")
            await chat.type("Hello")
            assert chat.draft == "Hello"
            await chat.pilot.press("enter")
            await chat.until(lambda: memory.journal.count() == 2)
            gate.set()
            await chat.until(lambda: len(view_of(chat).sections) == 2)  # drawn again, with the new message
            assert view_of(chat).sections[0].heading == 'Recall for "Hello"'

    run(main)


def test_the_pictures_are_drawn_again_after_a_turn_and_on_demand(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries: list[str] = []

    def picture(query: str = "", *, limit: int = 5) -> list[Picture]:
        queries.append(query)
        return []

    monkeypatch.setattr(memory, "picture", picture)

    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("One.")
            assert queries == []
            await draw(chat)
            assert queries == ["One.", ""]
            await chat.pilot.press("r")
            await chat.until(lambda: len(queries) == 4 and not view_of(chat).is_drawing)
            await chat.pilot.press("escape")
            await chat.send("Two.")
            await chat.until(lambda: len(queries) == 6 and not view_of(chat).is_drawing)
            assert queries[4:] == ["Two.", ""]

    run(main)


def test_a_memory_without_a_picture_and_one_that_fails_still_work(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picture(query: str = "", *, limit: int = 5) -> list[Picture]:
        if query:
            raise RuntimeError("\x1b[31mno picture")
        return []

    monkeypatch.setattr(memory, "picture", picture)

    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("Hello.")
            await draw(chat)
            texts = view_texts(chat)
            assert "The memory could not be drawn. RuntimeError: ·[31mno picture" in texts
            assert "This memory has no picture." in texts
            await chat.pilot.press("escape")
            await chat.send("And now?")
            assert chat.texts()[-1] == "And now?"

    run(main)


def test_a_forgetting_takes_the_pictures_away(memory: Memory) -> None:
    memory.remember("earlier", "user", "My dog is called Biscuit.")

    async def main() -> None:
        async with screen(memory) as chat:
            await chat.send("Is Biscuit a dog?")
            await draw(chat)
            assert "Biscuit" in view_of(chat).sections[0].heading
            await chat.pilot.press("f4")
            await open_row(chat, "turn 2")
            await chat.pilot.press("f")
            await chat.until(lambda: len(chat.app.screen_stack) == 2)
            await chat.pilot.press("y")
            await chat.until_idle()
            assert view_of(chat).sections == []
            assert not any("Biscuit" in text for text in view_texts(chat))

    run(main)


@pytest.mark.parametrize("size", [(80, 24), (40, 12)])
def test_pictures_fit_a_narrow_terminal(memory: Memory, size: tuple[int, int]) -> None:
    memory.remember("earlier", "user", "My dog is called Biscuit.")

    async def main() -> None:
        async with screen(memory, size=size) as chat:
            await chat.send("What is my dog called?")
            await draw(chat)
            assert view_of(chat).region.width >= size[0] - 3
            assert chat.app.query_one(MessageInput).region.bottom < size[1]
            await chat.until(lambda: view_of(chat).virtual_size.height > 9)
            await chat.pilot.press("end")
            await chat.until(lambda: view_of(chat).scroll_y == view_of(chat).max_scroll_y)

    run(main)


def test_surprise_over_the_conversation_is_a_curve_per_backend() -> None:
    def record(seq: int, **surprises: float | None) -> TurnRecord:
        results = {name: WriteResult(seq, surprise=surprise) for name, surprise in surprises.items()}
        return TurnRecord(message(seq, "x"), remembered=[Remembered(message(seq, "x"), False, "", results)])

    assert surprise_series([record(1, titans=0.5)]) is None
    series = surprise_series([record(1, titans=0.5, bm25=None), record(3, titans=0.25, memo=1.0)])
    assert series is not None
    assert series.x == (1, 3)
    assert list(series.curves) == ["titans", "memo"]
    assert list(series.curves["titans"]) == [0.5, 0.25]
