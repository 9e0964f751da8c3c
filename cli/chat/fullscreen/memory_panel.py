"""The memory panel: for each turn what was recalled, remembered and forgotten; and pictures of the memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import ContentSwitcher, OptionList, Static
from textual.widgets.option_list import Option

from memagent.backends.errors import MemagentError
from memagent.cli.chat.fullscreen.picture_view import PictureView
from memagent.cli.chat.fullscreen.source_screen import SourceScreen, read_contexts
from memagent.cli.chat.fullscreen.turn_records import (
    ForgetRecord,
    Record,
    Row,
    Source,
    TurnRecord,
    records_of,
)
from memagent.cli.rendering.output import one_line

if TYPE_CHECKING:
    from datetime import datetime

    from memagent.agent.engine.events import Event
    from memagent.cli.chat.chat import Chat
    from memagent.cli.chat.fullscreen.background import Reloaded

_LIST_HINT = "Enter: source · F4: pictures · Tab, Esc: list, message · F2: close"
_PICTURE_HINT = "Arrows: scroll · r: draw again · F4: turns · Esc: message · F2: close"


class RecordList(OptionList):
    """The rows of all turns, oldest first. What is typed here goes to the message."""

    DEFAULT_CSS = """
    RecordList { height: 1fr; border: none; padding: 0; background: transparent; scrollbar-size-vertical: 1; }
    RecordList:focus { border: none; background-tint: $foreground 0%; }
    RecordList > .option-list--option-disabled { color: $foreground; }
    """

    class Typed(Message):
        """The person types while the list has the focus.

        Attributes:
            character: what is typed.
        """

        def __init__(self, character: str) -> None:
            super().__init__()
            self.character = character

    def __init__(self) -> None:
        super().__init__(markup=False, compact=True)
        self._rows: list[Row] = []

    @property
    def rows(self) -> list[Row]:
        """The rows that are shown, from top to bottom."""
        return list(self._rows)

    def show(self, rows: list[Row]) -> None:
        """Show these rows; those that are shown already stay as they are."""
        count = len(self._rows)
        if rows[:count] == self._rows:
            self.add_options(map(_option, rows[count:]))
        else:
            highlighted = self.highlighted
            self.set_options(map(_option, rows))
            self.highlighted = min(highlighted, len(rows) - 1) if highlighted is not None and rows else None
        self._rows = rows
        if not self.has_focus:
            self.call_after_refresh(self.scroll_end, animate=False)

    def on_focus(self) -> None:
        """Mark the last row that can be opened."""
        if self.highlighted is None:
            self.action_last()

    def on_key(self, event: events.Key) -> None:
        """Hand what is typed to the message."""
        if event.is_printable and event.character is not None:
            event.stop()
            event.prevent_default()
            self.post_message(self.Typed(event.character))


class MemoryPanel(Vertical):
    """What memory did in this conversation, turn by turn, or pictures of it.

    Attributes:
        chat: whose memory it is; None: the chat is not open yet.
        records: what happened, oldest first.
    """

    DEFAULT_CSS = """
    MemoryPanel > #panel-title { height: 1; text-style: bold; }
    MemoryPanel > #panel-hint { height: auto; color: $text-muted; }
    MemoryPanel > ContentSwitcher { height: 1fr; }
    MemoryPanel #reason { height: auto; max-height: 4; color: $text-muted; display: none; }
    MemoryPanel #reason.-shown { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("r", "draw", "Draw again", show=False)]

    class CommandChosen(Message):
        """The person chooses something that a slash command does.

        Attributes:
            line: the command with its argument.
        """

        def __init__(self, line: str) -> None:
            super().__init__()
            self.line = line

    def __init__(self) -> None:
        super().__init__()
        self.chat: Chat | None = None
        self.records: list[Record] = []
        self._session = ""
        self._pinned: frozenset[int] = frozenset()
        self._list = RecordList()
        self._pictures = PictureView()

    def compose(self) -> ComposeResult:
        """Yield the title, the list or the pictures, and the keys."""
        yield Static("Memory", markup=False, id="panel-title")
        with ContentSwitcher(initial="records"):
            with Vertical(id="records"):
                yield self._list
                yield Static(markup=False, id="reason")
            with Vertical(id="pictures"):
                yield self._pictures
        yield Static(_LIST_HINT, markup=False, id="panel-hint")

    @property
    def shows_pictures(self) -> bool:
        """Whether it shows the pictures instead of the list."""
        return self.has_class("-pictures")

    # what happens

    def show_event(self, event: Event) -> None:
        """Show what an event says about memory; other events change nothing."""
        from memagent.agent.engine.events import Recalled, Remembered, TurnBegan, TurnEnded

        if isinstance(event, TurnBegan):
            self.records.append(TurnRecord(event.turn))
        elif isinstance(event, TurnEnded):
            self._draw_if_shown()
        elif isinstance(event, Recalled | Remembered) and (record := self._last_turn()) is not None:
            if isinstance(event, Recalled):
                record.recalled = event
            else:
                record.remembered.append(event)
        self._show()

    def reload(self, message: Reloaded) -> None:
        """Show the turns of the session in use, without what is forgotten."""
        live = {record.message.seq: record for record in self.records if isinstance(record, TurnRecord)}
        if message.session != self._session:
            live, self.records = {}, []
        forgotten_seqs = set(message.forgotten)
        for record in live.values():
            record.forget(forgotten_seqs)
        records: list[Record] = [record for record in self.records if isinstance(record, ForgetRecord)]
        records += [
            live.get(record.message.seq, record) for record in records_of(message.turns, message.sources)
        ]
        if message.forgotten:
            records.append(
                ForgetRecord(message.forgotten, max((record.place for record in records), default=0))
            )
            self._pictures.clear()
        self.records = sorted(records, key=lambda record: record.place)
        self._session = message.session
        self._show()
        self._draw_if_shown()

    def mark_pinned(self, seqs: Collection[int]) -> None:
        """Mark what is pinned."""
        self._pinned = frozenset(seqs)
        self._show()

    def _last_turn(self) -> TurnRecord | None:
        return next((record for record in reversed(self.records) if isinstance(record, TurnRecord)), None)

    def _show(self) -> None:
        if self.chat is not None:
            self._list.show(list(_rows(self.records, self._pinned, self.chat.now)))

    # views

    def take_focus(self) -> None:
        """Let the keys of the view work that is shown."""
        (self._pictures if self.shows_pictures else self._list).focus()

    def switch_view(self, *, pictures: bool) -> None:
        """Show the pictures, or the list of turns."""
        self.set_class(pictures, "-pictures")
        self.query_one(ContentSwitcher).current = "pictures" if pictures else "records"
        self.query_one("#panel-title", Static).update("Pictures of memory" if pictures else "Memory")
        self.query_one("#panel-hint", Static).update(_PICTURE_HINT if pictures else _LIST_HINT)
        self._draw_if_shown()

    def action_draw(self) -> None:
        """Draw the pictures again."""
        self._draw_if_shown()

    def _draw_if_shown(self) -> None:
        if self.shows_pictures and self.has_class("-open") and self.chat is not None:
            record = self._last_turn()
            turns = [record for record in self.records if isinstance(record, TurnRecord)]
            self._pictures.draw(self.chat, record.message.text if record else "", turns)

    # rows

    @on(OptionList.OptionHighlighted)
    def _explain(self, event: OptionList.OptionHighlighted) -> None:
        """Show why memory did what the marked row says."""
        rows = self._list.rows
        reason = rows[event.option_index].reason if event.option_index < len(rows) else ""
        line = self.query_one("#reason", Static)
        line.set_class(bool(reason), "-shown")
        line.update(Text(f"Why: {one_line(reason)}"))

    @on(OptionList.OptionSelected)
    def _open(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        source = self._list.rows[event.option_index].source
        if source is not None:
            self.open_source(source)

    @work(exclusive=True)
    async def open_source(self, source: Source) -> None:
        """Show the turns that a row comes from, and do what the person chooses there.

        Args:
            source: of the row.
        """
        if self.chat is None:
            return
        try:
            contexts = await asyncio.to_thread(read_contexts, self.chat.journal, source.seqs)
        except MemagentError as error:
            self.notify(one_line(str(error)), severity="error", markup=False)
            return
        if not contexts:
            self.notify("This turn is forgotten.", timeout=3)
            return
        line = await self.app.push_screen_wait(SourceScreen(source, contexts, self._pinned))
        if line:
            self.post_message(self.CommandChosen(line))


def _rows(records: Iterable[Record], pinned: Collection[int], now: datetime) -> Iterable[Row]:
    for record in records:
        yield from record.rows(pinned, now)


def _option(row: Row) -> Option:
    return Option(row.text, disabled=row.source is None)
