"""The list of memories on a screen of its own, to use another one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from memagent.cli.chat.commands import backends as commands
from memagent.cli.chat.costs import MemoryDescription, describe_memories
from memagent.cli.chat.fullscreen.background import post
from memagent.cli.rendering.output import one_line

if TYPE_CHECKING:
    from memagent.cli.chat.chat import Chat
    from memagent.cli.chat.fullscreen.conversation_pane import ConversationPane

_KEYS = "Enter uses it, after a question · Esc closes"


class MemoriesScreen(ModalScreen[None]):
    """All installed memories: what each one is, and what using it costs.

    Args:
        pane: of the conversation; it runs what the person chooses.
        chat: the open chat.
    """

    DEFAULT_CSS = """
    MemoriesScreen { align: center middle; }
    MemoriesScreen #memories { width: 90%; max-width: 110; height: auto; max-height: 90%; padding: 0 1;
        border: round $primary; background: $surface; }
    MemoriesScreen OptionList, MemoriesScreen OptionList:focus { height: auto; max-height: 100%; border: none; padding: 0; }
    MemoriesScreen #note { height: 1; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,ctrl+c", "close", "Close", priority=True)]
    AUTO_FOCUS = "OptionList"

    class Described(Message):
        """The memories were imported, and their stored states looked at.

        Attributes:
            memories: what each one is, and costs.
        """

        def __init__(self, memories: Sequence[MemoryDescription]) -> None:
            super().__init__()
            self.memories = memories

    def __init__(self, pane: ConversationPane, chat: Chat) -> None:
        super().__init__()
        self._pane = pane
        self._chat = chat
        self._memories: Sequence[MemoryDescription] = ()

    def compose(self) -> ComposeResult:
        """Yield the list and the line of keys."""
        with Vertical(id="memories") as frame:
            frame.border_title = "Memories"
            yield OptionList(markup=False)
            yield Static("The memories are being looked at ...", markup=False, id="note")

    def on_mount(self) -> None:
        """Describe the memories in the background."""
        self._describe()

    @work(thread=True, exit_on_error=False)
    def _describe(self) -> None:
        post(self, self.Described(describe_memories(self._chat)))

    @on(Described)
    def _take(self, message: Described) -> None:
        self._memories = message.memories
        options, used = self.query_one(OptionList), self._chat.memory.name
        options.set_options(
            Option(_prompt(memory, is_used=memory.name == used), disabled=not memory.is_usable)
            for memory in self._memories
        )
        names = [memory.name for memory in self._memories]
        options.highlighted = names.index(used) if used in names else 0
        self.query_one("#note", Static).update(_KEYS)

    @on(OptionList.OptionSelected)
    def _use(self, event: OptionList.OptionSelected) -> None:
        name = self._memories[event.option_index].name
        if name == self._chat.memory.name or self._pane.start_command(partial(commands.use, argument=name)):
            self.dismiss(None)

    def action_close(self) -> None:
        """Close the list; the memory in use stays."""
        self.dismiss(None)


def _prompt(memory: MemoryDescription, *, is_used: bool) -> Text:
    """Return the lines of a memory: its name and what it is, what it costs."""
    state = "in use" if is_used else memory.cost
    return Text.assemble(
        (f"{one_line(memory.name)}  ", "bold"),
        one_line(memory.about),
        (f"\n  {one_line(state)}" if state else "", "dim"),
    )
