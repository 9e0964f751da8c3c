"""The list of sessions on a screen of its own: search, continue, begin, delete."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option
from textual.worker import get_current_worker

from memagent.backends.errors import MemagentError
from memagent.cli.chat.commands import sessions as commands
from memagent.cli.chat.fullscreen.background import post
from memagent.cli.chat.fullscreen.session_search import SessionRow, list_sessions, search_texts

if TYPE_CHECKING:
    from memagent.cli.chat.chat import Chat, Interface
    from memagent.cli.chat.fullscreen.conversation_pane import ConversationPane

_KEYS = "Enter continues · Ctrl+N begins a new one · Del forgets · Esc closes"
_SECONDS_BEFORE_SEARCH = 0.25
_PAGE = 5
"""Sessions that PageUp and PageDown skip."""


class SessionsScreen(ModalScreen[None]):
    """All sessions, the latest first. Typing filters them by title and name, and searches in what was said in them.

    Args:
        pane: of the conversation; it runs what the person chooses.
        chat: the open chat.
    """

    DEFAULT_CSS = """
    SessionsScreen { align: center middle; }
    SessionsScreen #sessions { width: 90%; max-width: 110; height: 85%; padding: 0 1; border: round $primary; background: $surface; }
    SessionsScreen Input { height: 1; border: none; padding: 0; margin: 0 0 1 0; }
    SessionsScreen OptionList { height: 1fr; border: none; padding: 0; text-wrap: nowrap; text-overflow: ellipsis; }
    SessionsScreen #note { height: 1; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f3,ctrl+c", "close", "Close", priority=True),
        Binding("up", "move(-1)", "Up", show=False),
        Binding("down", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("ctrl+n", "begin", "New", priority=True),
        Binding("delete", "delete", "Forget", priority=True),
    ]
    AUTO_FOCUS = "Input"

    class Listed(Message):
        """Sessions were read, or one more was found by its text.

        Attributes:
            rows: what to show.
            query: what was searched for.
        """

        def __init__(self, rows: Sequence[SessionRow], query: str = "") -> None:
            super().__init__()
            self.rows = rows
            self.query = query

    class Noted(Message):
        """Something to say in the last line.

        Attributes:
            text: one sentence; empty: the keys.
            reload: whether the list has changed.
        """

        def __init__(self, text: str = "", *, reload: bool = False) -> None:
            super().__init__()
            self.text = text
            self.reload = reload

    def __init__(self, pane: ConversationPane, chat: Chat) -> None:
        super().__init__()
        self._pane = pane
        self._chat = chat
        self._rows: list[SessionRow] = []
        self._matches: dict[str, SessionRow] = {}
        self._shown: list[SessionRow] = []
        self._now = chat.now

    def compose(self) -> ComposeResult:
        """Yield the search field, the list and the line of keys."""
        with Vertical(id="sessions") as frame:
            frame.border_title = "Sessions"
            yield Input(placeholder="Search titles, names and what was said", compact=True)
            yield OptionList(markup=False)
            yield Static(_KEYS, markup=False, id="note")

    def on_mount(self) -> None:
        """Read the sessions in the background."""
        self.query_one(OptionList).can_focus = False
        self._read()

    @property
    def chosen(self) -> SessionRow | None:
        """The session that is highlighted; None: there is none."""
        place = self.query_one(OptionList).highlighted
        return None if place is None else self._shown[place]

    # reading

    @work(thread=True, exclusive=True, group="list", exit_on_error=False)
    def _read(self) -> None:
        try:
            post(self, self.Listed(list_sessions(self._chat.journal)))
        except MemagentError as error:
            post(self, self.Noted(str(error)))

    @work(thread=True, exclusive=True, group="search", exit_on_error=False)
    def _search(self, query: str, rows: list[SessionRow]) -> None:
        worker = get_current_worker()
        post(self, self.Noted("Searching in what was said ..."))
        try:
            for row in search_texts(self._chat.journal, query, rows, lambda: worker.is_cancelled):
                post(self, self.Listed([row], query))
        except MemagentError as error:
            post(self, self.Noted(str(error)))
            return
        if not worker.is_cancelled:
            post(self, self.Noted())

    @on(Listed)
    def _take(self, message: Listed) -> None:
        if not message.query:
            self._rows = list(message.rows)
            self._filter()
        elif message.query == self._query:
            self._matches.update({row.name: row for row in message.rows})
            self._show()

    @on(Noted)
    def _note(self, message: Noted) -> None:
        empty = "Nothing was said that contains this text." if self._query else "There are no sessions yet."
        self.query_one("#note", Static).update(message.text or (_KEYS if self._shown else empty))
        if message.reload:
            self._read()

    @property
    def _query(self) -> str:
        return self.query_one(Input).value.strip()

    @on(Input.Changed)
    def _filter(self) -> None:
        self._matches = {}
        self.workers.cancel_group(self, "search")
        self._show()
        query = self._query
        if query:
            self.set_timer(_SECONDS_BEFORE_SEARCH, partial(self._begin_search, query))

    def _begin_search(self, query: str) -> None:
        """Search in the texts of the sessions whose title and name do not match, unless the person types on."""
        if query == self._query:
            self._search(query, [row for row in self._rows if not row.fits(query)])

    def _show(self) -> None:
        query, before = self._query, self.chosen
        self._shown = [
            self._matches.get(row.name, row)
            for row in self._rows
            if row.fits(query) or row.name in self._matches
        ]
        options = self.query_one(OptionList)
        options.set_options(
            Option(row.prompt(self._now, is_current=row.name == self._chat.conversation.session))
            for row in self._shown
        )
        names = [row.name for row in self._shown]
        if names:
            options.highlighted = names.index(before.name) if before and before.name in names else 0

    # choosing

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _continue(self) -> None:
        if self.chosen is not None:
            self._run_and_close(partial(commands.resume, argument=self.chosen.name))

    def action_begin(self) -> None:
        """Begin a new session."""
        self._run_and_close(partial(commands.begin, argument=""))

    def action_delete(self) -> None:
        """Forget the highlighted session, after a question."""
        if self.chosen is not None:
            self._pane.start_command(partial(self._delete, self.chosen.name))

    def _delete(self, name: str, chat: Chat, interface: Interface) -> None:
        try:
            commands.delete(chat, interface, name)
        finally:
            post(self, self.Noted(reload=True))

    def _run_and_close(self, command: partial[None]) -> None:
        if self._pane.start_command(command):
            self.dismiss(None)

    def action_close(self) -> None:
        """Close the list; nothing changes."""
        self.dismiss(None)

    def action_move(self, step: int) -> None:
        """Highlight the next session, or the one before."""
        options = self.query_one(OptionList)
        (options.action_cursor_up if step < 0 else options.action_cursor_down)()

    def action_page(self, step: int) -> None:
        """Highlight the session a few further."""
        options = self.query_one(OptionList)
        if options.highlighted is not None:
            options.highlighted = min(max(0, options.highlighted + step * _PAGE), options.option_count - 1)
