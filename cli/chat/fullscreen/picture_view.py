"""The view of the memory panel that draws pictures of the memory, in the background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text
from textual import on
from textual.containers import ScrollableContainer
from textual.events import Resize
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static

from memagent.cli.chat.fullscreen.background import Finished, Job, post
from memagent.cli.chat.fullscreen.pictures import picture_widget
from memagent.cli.rendering.output import one_line, printable

if TYPE_CHECKING:
    from memagent.backends.picture import Picture, Series
    from memagent.cli.chat.chat import Chat
    from memagent.cli.chat.fullscreen.turn_records import TurnRecord

_MAX_QUESTION = 60


@dataclass(frozen=True)
class Section:
    """Pictures below a heading.

    Attributes:
        heading: what they show.
        pictures: from top to bottom.
        fault: why they could not be drawn; empty: they could.
    """

    heading: str
    pictures: tuple[Picture, ...]
    fault: str = ""


class Drawn(Message):
    """The pictures are ready.

    Attributes:
        number: of the drawing.
        sections: from top to bottom.
    """

    def __init__(self, number: int, sections: list[Section]) -> None:
        super().__init__()
        self.number = number
        self.sections = sections


class PictureView(ScrollableContainer):
    """Pictures of how the last message was recalled for, and of the memory itself.

    A thread computes them, which may take seconds; one drawing runs at a time, and the latest one counts.

    Attributes:
        sections: what is shown; empty: nothing yet.
    """

    DEFAULT_CSS = """
    PictureView { height: 1fr; scrollbar-size: 1 1; }
    PictureView > .heading { height: auto; text-style: bold; color: $text-accent; margin-bottom: 1; }
    PictureView > .state { height: auto; color: $text-muted; margin-bottom: 1; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.sections: list[Section] = []
        self._number = 0
        self._job: Job | None = None
        self._next: tuple[Chat, str, list[Section]] | None = None

    @property
    def is_drawing(self) -> bool:
        """Whether newer pictures are on the way."""
        return self._job is not None

    def draw(self, chat: Chat, question: str, turns: Sequence[TurnRecord]) -> None:
        """Draw the pictures in the background.

        Args:
            chat: whose memory it is.
            question: the last message; empty: there is none.
            turns: of the conversation; their surprise is drawn if the memory draws no curves itself.
        """
        curve = surprise_series(turns)
        last = [Section("This conversation", (curve,))] if curve is not None else []
        self._number += 1
        self._next = chat, question, last
        if self._job is None:
            self._start()
        self._mark_drawing()

    def clear(self) -> None:
        """Take away what is shown, as it may hold what was forgotten."""
        self._number += 1
        self._next = None
        self.sections = []
        self.remove_children()

    def _start(self) -> None:
        assert self._next is not None  # noqa: S101 - for mypy
        (chat, question, last), self._next = self._next, None
        self._job = Job(self, "pictures", partial(self._compute, self._number, chat, question, last))

    def _compute(self, number: int, chat: Chat, question: str, last: list[Section]) -> None:
        sections = []
        if question.strip():
            heading = f'Recall for "{_shortened(question)}"'
            sections.append(_section(heading, chat, question))
        sections.append(_section(f"The memory: {chat.memory.name}", chat, ""))
        if not any(_has_series(section) for section in sections):
            sections += last
        post(self, Drawn(number, sections))

    @on(Drawn)
    async def _show_drawn(self, message: Drawn) -> None:
        message.stop()
        if message.number == self._number:
            self.sections = message.sections
            await self._show()

    @on(Finished)
    def _go_on(self, message: Finished) -> None:
        message.stop()
        self._job = None
        if self._next is not None:
            self._start()

    async def _show(self) -> None:
        await self.remove_children()
        await self.mount_all(
            widget
            for section in self.sections
            for widget in _widgets(section, self.scrollable_content_region.width - 1)
        )
        self.scroll_home(animate=False)

    async def on_resize(self, event: Resize) -> None:
        """Fit the pictures to the new width."""
        if self.sections:
            await self._show()

    def _mark_drawing(self) -> None:
        if not self.query(".state"):
            line = Static("Drawing the memory; this may take some seconds ...", markup=False, classes="state")
            self.mount(line, before=0 if self.children else None)


def surprise_series(turns: Sequence[TurnRecord]) -> Series | None:
    """Return how surprising the turns were to each backend that says so; None if there are fewer than two.

    Args:
        turns: of the conversation, oldest first.
    """
    from memagent.backends.picture import Series

    by_backend: dict[str, dict[int, float]] = {}
    for event in (event for record in turns for event in record.remembered):
        for name, result in event.results.items():
            if result.surprise is not None:
                by_backend.setdefault(name, {})[event.turn.seq] = result.surprise
    seqs = sorted({seq for surprises in by_backend.values() for seq in surprises})
    if len(seqs) < 2:
        return None
    curves = {
        name: [surprises.get(seq, float("nan")) for seq in seqs] for name, surprises in by_backend.items()
    }
    return Series("Surprise of what was remembered", "turn", tuple(map(float, seqs)), curves)


def _section(heading: str, chat: Chat, question: str) -> Section:
    """Compute the pictures of a question, or of the memory itself; a fault of a backend becomes a line."""
    try:
        return Section(heading, tuple(chat.memory.picture(question)))
    except Exception as error:  # noqa: BLE001 - a backend of somebody else may raise anything
        return Section(heading, (), f"{type(error).__name__}: {error}")


def _has_series(section: Section) -> bool:
    from memagent.backends.picture import Series

    return any(isinstance(picture, Series) for picture in section.pictures)


def _widgets(section: Section, width: int) -> list[Widget]:
    heading = Static(Text(printable(section.heading)), markup=False, classes="heading")
    if section.fault:
        fault = Text(f"The memory could not be drawn. {one_line(section.fault)}")
        return [heading, Static(fault, markup=False, classes="state")]
    if not section.pictures:
        return [heading, Static("This memory has no picture.", markup=False, classes="state")]
    return [heading, *(picture_widget(picture, width) for picture in section.pictures)]


def _shortened(question: str) -> str:
    line = one_line(question).strip()
    return line if len(line) <= _MAX_QUESTION else f"{line[:_MAX_QUESTION].rstrip()}..."
