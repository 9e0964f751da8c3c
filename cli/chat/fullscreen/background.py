"""Work that takes time, in a thread beside the screen, and how it reports to the screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from io import StringIO
from typing import TYPE_CHECKING, TypeVar

from rich.text import Text
from textual._context import NoActiveAppError
from textual.message import Message

from memagent.cli.rendering.console import Console
from memagent.cli.rendering.frontend import Frontend

if TYPE_CHECKING:
    from textual.widget import Widget

    from memagent.agent.engine.events import Event
    from memagent.backends.records import Turn
    from memagent.cli.chat.chat import Chat
    from memagent.cli.chat.views import View

Item = TypeVar("Item")
_SECONDS_BETWEEN_UPDATES = 0.1


class ScreenClosed(BaseException):
    """The screen that a download reports to is closed."""


class TurnEvent(Message):
    """An event of the turn in progress.

    Attributes:
        event: as the engine yields it.
    """

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event


class Output(Message):
    """Text for the conversation.

    Attributes:
        text: what to show.
        is_error: whether it is an error.
    """

    def __init__(self, text: str | Text, *, is_error: bool = False) -> None:
        super().__init__()
        self.text = text
        self.is_error = is_error


class Progressed(Message):
    """How far a long loop or a download is.

    Attributes:
        label: what it does.
        done: how much is done.
        total: how much there is; None: unknown.
        unit: ``B`` for bytes; empty: items.
    """

    def __init__(self, label: str, done: int, total: int | None, unit: str = "") -> None:
        super().__init__()
        self.label = label
        self.done = done
        self.total = total
        self.unit = unit


class Question(Message):
    """A yes-or-no question that a thread waits for.

    Attributes:
        text: the question.
        details: what was printed before it.
        answer: gets the answer.
    """

    def __init__(self, text: str, details: str) -> None:
        super().__init__()
        self.text = text
        self.details = details
        self.answer: Future[bool] = Future()


class ViewRequested(Message):
    """A slash command has something to show on a screen of its own.

    Attributes:
        view: what it is.
    """

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view


class Finished(Message):
    """A job has ended.

    Attributes:
        job: its name.
        error: what it raised; None: nothing.
    """

    def __init__(self, job: str, error: BaseException | None) -> None:
        super().__init__()
        self.job = job
        self.error = error


class Opened(Message):
    """The chat is open.

    Attributes:
        chat: with its memory and model.
        history: past messages of the user, oldest first.
    """

    def __init__(self, chat: Chat, history: list[str]) -> None:
        super().__init__()
        self.chat = chat
        self.history = history


class Reloaded(Message):
    """The session's turns have changed, or another session is in use.

    Attributes:
        turns: of the session, oldest first.
        session: its name.
        sources: the turns that its replies recalled, by seq.
        forgotten: seqs of the turns that were forgotten since the screen was last drawn.
        history: past messages of the user, oldest first, if something was forgotten.
    """

    def __init__(
        self,
        turns: list[Turn],
        session: str,
        sources: dict[int, Turn],
        forgotten: tuple[int, ...] = (),
        history: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.turns = turns
        self.session = session
        self.sources = sources
        self.forgotten = forgotten
        self.history = history


class Pinned(Message):
    """A command has ended, which may have pinned turns.

    Attributes:
        seqs: of all turns that are pinned now.
    """

    def __init__(self, seqs: frozenset[int]) -> None:
        super().__init__()
        self.seqs = seqs


class Job:
    """Work in a thread of its own, in the caller's context. ``Finished`` is posted when it ends.

    Args:
        receiver: the widget that gets the message.
        name: what the work is, such as ``reply``.
        work: what is done.
    """

    def __init__(self, receiver: Widget, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self._receiver = receiver
        self._work = work
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name=name, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._thread.is_alive()

    def join(self, seconds: float | None = None) -> None:
        """Wait until it has ended, or so many seconds."""
        self._thread.join(seconds)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._work()
        except BaseException as raised:  # noqa: BLE001 - shown by the app
            error = raised
        post(self._receiver, Finished(self.name, error))


def post(receiver: Widget, message: Message) -> bool:
    """Hand a message to a widget. Any thread may call it.

    Returns:
        False if the screen is closed; nobody gets the message then.
    """
    try:
        return receiver.post_message(message)
    except (RuntimeError, NoActiveAppError):  # the event loop is closed
        return False


def screen_frontend(receiver: Widget) -> Frontend:
    """Return a frontend that reports to the screen. Any thread may use it.

    Args:
        receiver: the widget that gets ``Output`` and ``Progressed``.
    """

    def progress(items: Iterable[Item], *, total: int | None, label: str) -> Iterable[Item]:
        due = 0.0
        done = 0
        post(receiver, Progressed(label, 0, total))
        for done, item in enumerate(items, start=1):
            yield item
            if time.monotonic() >= due:
                due = time.monotonic() + _SECONDS_BETWEEN_UPDATES
                post(receiver, Progressed(label, done, total))
        post(receiver, Progressed(label, done, done))

    last_report: dict[str, float] = {}

    def report(done: int, total: int, label: str) -> None:
        now = time.monotonic()
        if done >= total or now >= last_report.get(label, 0.0) + _SECONDS_BETWEEN_UPDATES:
            last_report[label] = now
            if not post(receiver, Progressed(label, done, total, "B")):
                raise ScreenClosed

    def notify(text: str) -> None:
        post(receiver, Output(text))

    return Frontend(notify, progress, report)


class CommandConsole:
    """Collects what a slash command prints, until it asks a question or ends.

    Args:
        receiver: the widget that gets ``Output`` and ``Question``.
        width: of the conversation, in cells.
    """

    def __init__(self, receiver: Widget, width: int) -> None:
        self._receiver = receiver
        self.console = Console(
            record=True,
            file=StringIO(),
            width=width,
            force_terminal=True,
            color_system=None if receiver.app.no_color else "truecolor",
        )

    def ask(self, question: str) -> bool:
        """Show what was printed so far with a question, and wait for the answer; no if the screen is closed."""
        message = Question(question, self.console.export_text().rstrip())
        return post(self._receiver, message) and message.answer.result()

    def show(self) -> None:
        """Show what was printed since."""
        text = Text.from_ansi(self.console.export_text(styles=True).rstrip("\n"))
        if text.plain:
            post(self._receiver, Output(text))
