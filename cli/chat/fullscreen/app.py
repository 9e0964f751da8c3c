"""The full-screen chat: its parts, its keys, and how it begins and ends."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.events import Resize

from memagent.backends.errors import SettingError
from memagent.cli.chat.fullscreen.background import (
    Finished,
    Opened,
    Pinned,
    Reloaded,
    TurnEvent,
    ViewRequested,
)
from memagent.cli.chat.fullscreen.conversation_pane import ConversationPane, OpenChat
from memagent.cli.chat.fullscreen.conversation_view import ConversationView
from memagent.cli.chat.fullscreen.editor import edit
from memagent.cli.chat.fullscreen.memory_panel import MemoryPanel, RecordList
from memagent.cli.chat.fullscreen.message_input import MessageInput
from memagent.cli.chat.fullscreen.search_field import SearchField
from memagent.cli.chat.fullscreen.status_line import StatusLine
from memagent.cli.chat.fullscreen.view_screens import open_view
from memagent.cli.chat.views import SessionList
from memagent.cli.rendering.output import one_line

if TYPE_CHECKING:
    from memagent.agent.engine.events import TurnEnded
    from memagent.cli.chat.chat import Chat

_WIDE = 100
"""From this width on, in cells, the memory panel stands beside the conversation; below, in its place."""
_SECONDS_TO_LEAVE = 2.0
_KEYS_OF_CONVERSATION = ("interrupt", "search", "copy_reply", "edit", "scroll", "leave")


class ChatApp(App[None]):
    """A chat on the full screen. The window is there before the model is loaded.

    Args:
        open_chat: opens the memory and loads the model; it is called in a thread.

    Attributes:
        pane: the conversation.
        failure: why the program could not go on; None: the person has left.
    """

    CSS_PATH = "chat.tcss"
    TITLE = "memagent"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", "Stop", priority=True),
        Binding("escape", "stop", "Stop"),
        Binding("ctrl+d", "leave", "Leave", priority=True),
        Binding("f2", "panel", "Memory"),
        Binding("f3", "sessions", "Sessions"),
        Binding("f4", "pictures", "Pictures of memory"),
        Binding("ctrl+f", "search", "Search", priority=True),
        Binding("ctrl+y", "copy_reply", "Copy the last reply", priority=True),
        Binding("ctrl+g", "edit", "Write in your editor"),
        Binding("ctrl+z", "suspend_process", "Suspend", priority=True),
        Binding("pageup", "scroll(-1)", "Up", priority=True),
        Binding("pagedown", "scroll(1)", "Down", priority=True),
    ]

    def __init__(self, open_chat: OpenChat) -> None:
        super().__init__()
        self.pane = ConversationPane()
        self._panel = MemoryPanel()
        self._status = StatusLine()
        self.failure: BaseException | None = None
        self._open_chat = open_chat
        self._interrupted_at = -_SECONDS_TO_LEAVE
        self._last_turn: TurnEnded | None = None

    def compose(self) -> ComposeResult:
        """Yield the parts of the screen."""
        with Horizontal(id="body"):
            yield self.pane
            yield self._panel
        yield self._status

    def on_mount(self) -> None:
        """Begin to open the chat, and let a signal that ends the program restore the terminal first."""
        loop = asyncio.get_running_loop()
        for name in ("SIGTERM", "SIGHUP"):
            with suppress(
                AttributeError, NotImplementedError, RuntimeError, ValueError
            ):  # not on every system
                loop.add_signal_handler(getattr(signal, name), self.leave)
        self.query_one(MessageInput).focus()
        self.begin()

    def begin(self) -> None:
        """Open the chat once the window is drawn, which the imports of the models would delay."""
        self.call_after_refresh(self.open, self._open_chat)

    def open(self, open_chat: OpenChat) -> None:
        """Open the chat in the background.

        Args:
            open_chat: opens the memory and loads the model.
        """
        self.pane.open(open_chat)
        self._show_status()

    def leave(self) -> None:
        """End the program; ``program.run`` waits for what is still to be stored."""
        self.pane.give_up()
        self.exit()

    def _handle_exception(self, error: Exception) -> None:
        """End the program after a fault; ``program.run`` raises it, so that it is reported as every command's is.

        Textual would print it with the values of all variables, among them what the person has said.
        """
        self.failure = self.failure or error
        self.leave()

    # what happens

    @on(Resize)
    def _choose_layout(self, event: Resize) -> None:
        chat_screen = self.screen_stack[0]  # another one may be on top
        chat_screen.set_class(event.size.width >= _WIDE, "wide")
        chat_screen.set_class(event.size.width < _WIDE, "narrow")

    @on(TurnEvent)
    def _follow_turn(self, message: TurnEvent) -> None:
        from memagent.agent.engine.events import TurnEnded

        self._panel.show_event(message.event)
        if isinstance(message.event, TurnEnded):
            self._last_turn = message.event
        self._show_status()

    @on(Opened)
    @on(Finished)
    def _follow_job(self) -> None:
        self._show_status()

    @on(Reloaded)
    @on(Pinned)
    def _follow_memory(self, message: Reloaded | Pinned) -> None:
        self._panel.chat = self.pane.chat
        if isinstance(message, Reloaded):
            self._panel.reload(message)
        else:
            self._panel.mark_pinned(message.seqs)

    @on(MemoryPanel.CommandChosen)
    def _run_choice(self, message: MemoryPanel.CommandChosen) -> None:
        self.pane.run_command(message.line)

    @on(RecordList.Typed)
    def _write(self, message: RecordList.Typed) -> None:
        field = self.query_one(MessageInput)
        field.focus()
        field.insert(message.character)

    @on(ViewRequested)
    def _open_view(self, message: ViewRequested) -> None:
        open_view(message.view, self.pane)

    @on(ConversationPane.Failed)
    def _end(self, message: ConversationPane.Failed) -> None:
        self.failure = message.error
        self.leave()

    def _show_status(self) -> None:
        fields = [self.pane.state, *_status(self.pane.chat, self._last_turn)]
        self._status.show(fields)

    # keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave the keys of the conversation to a dialog while one is open."""
        return action not in _KEYS_OF_CONVERSATION or len(self.screen_stack) == 1

    def action_interrupt(self) -> None:
        """Stop the reply; without one copy what is selected, or put the draft aside, or leave at the second time."""
        if self.pane.stop():
            return
        if selected := self.screen.get_selected_text():
            self.copy_to_clipboard(selected)
            return
        field = self.query_one(MessageInput)
        if field.text:
            field.put_aside()
            return
        now = time.monotonic()
        if now - self._interrupted_at < _SECONDS_TO_LEAVE:
            self.leave()
            return
        self._interrupted_at = now
        self.notify("Press Ctrl+C again to leave.", timeout=_SECONDS_TO_LEAVE)

    def action_stop(self) -> None:
        """End the search, stop the reply, or go back to the message."""
        search = self.query_one(SearchField)
        if search.has_class("-shown"):
            search.end()
        elif self.pane.stop():
            return
        self.query_one(MessageInput).focus()

    def action_leave(self) -> None:
        """Leave, unless a message is being written."""
        if self.query_one(MessageInput).text:
            self.notify("A message is being written; press Ctrl+C twice to leave without it.", timeout=3)
        else:
            self.leave()

    def action_panel(self) -> None:
        """Show or hide the memory panel."""
        self._open_panel(is_open=not self._panel.has_class("-open"))

    def action_pictures(self) -> None:
        """Show pictures of memory in the panel, or its list of turns again."""
        pictures = not (self._panel.shows_pictures and self._panel.has_class("-open"))
        self._open_panel(is_open=True)
        self._panel.switch_view(pictures=pictures)
        self._panel.take_focus()

    def _open_panel(self, *, is_open: bool) -> None:
        self._panel.set_class(is_open, "-open")
        self.query_one("#body").set_class(is_open, "-panel")
        if is_open:
            self._panel.take_focus()
        else:
            self._panel.switch_view(pictures=False)
            self.query_one(MessageInput).focus()

    def action_sessions(self) -> None:
        """Show the list of sessions."""
        open_view(SessionList(), self.pane)

    def action_search(self) -> None:
        """Search in the conversation."""
        self.query_one(SearchField).begin()

    def action_scroll(self, pages: int) -> None:
        """Scroll the conversation by a page."""
        view = self.query_one(ConversationView)
        scroll = view.scroll_page_up if pages < 0 else view.scroll_page_down
        scroll(animate=False)

    def action_copy_reply(self) -> None:
        """Copy the last reply."""
        reply = self.query_one(ConversationView).last_reply()
        if reply:
            self.copy_to_clipboard(reply)
            self.notify("The last reply is copied.", timeout=2)

    def action_edit(self) -> None:
        """Write the message in the person's editor."""
        field = self.query_one(MessageInput)
        try:
            field.text = edit(self, field.text)
        except SettingError as error:
            self.notify(one_line(str(error)), severity="error", markup=False)
        field.move_cursor(field.document.end)


def _status(chat: Chat | None, turn: TurnEnded | None) -> list[str]:
    """Return the fields of the status line, the most important first."""
    if chat is None:
        return []
    fields = [
        chat.conversation.model.name,
        f"{chat.memory.name} memory",
        f"channel {chat.conversation.channel}",
    ]
    if turn is not None:
        used = turn.usage.prompt_tokens + turn.usage.reply_tokens
        generating = turn.seconds.total - turn.seconds.first_token
        fields.append(f"context {used:,} of {turn.usage.window:,} ({100 * used // turn.usage.window} %)")
        fields.append(f"{turn.usage.reply_tokens / generating:.1f} tokens/s" if generating > 0 else "")
        fields.append(f"recall {turn.seconds.recall * 1000:.0f} ms")
    return [*fields, f"session {chat.conversation.session}"]
