"""The source of a recollection: the whole turn between its neighbours, and what can be done with it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from memagent.cli.chat.fullscreen.message_input import MessageInput
from memagent.cli.chat.fullscreen.turn_records import Source
from memagent.cli.rendering.output import one_line, printable
from memagent.cli.rendering.phrases import ago

if TYPE_CHECKING:
    from memagent.agent.journal import Journal
    from memagent.backends.records import Turn

_TURNS_BEFORE = 3
_TURNS_AFTER = 3
_SEQS_BEFORE = 60
"""How far back the turns before are looked for; other sessions may stand between them."""
_MAX_CHARACTERS = 20_000
"""Of the source that are shown; a paste may have megabytes."""
_MAX_NEIGHBOUR = 400


@dataclass(frozen=True)
class SourceContext:
    """A turn between its neighbours in its session.

    Attributes:
        turn: the turn.
        before: the turns before it, oldest first.
        after: the turns after it, oldest first.
    """

    turn: Turn
    before: tuple[Turn, ...]
    after: tuple[Turn, ...]


def read_contexts(journal: Journal, seqs: Collection[int]) -> list[SourceContext]:
    """Return turns with their neighbours; forgotten turns are left out.

    Args:
        journal: has the turns.
        seqs: of the turns.
    """
    contexts = []
    by_seq = {turn.seq: turn for turn in journal.get(seqs)}
    for turn in (by_seq[seq] for seq in seqs if seq in by_seq):
        before = [
            other
            for other in journal.get(range(max(1, turn.seq - _SEQS_BEFORE), turn.seq))
            if other.session == turn.session
        ]
        after = islice(journal.turns(after=turn.seq, session=turn.session), _TURNS_AFTER)
        contexts.append(SourceContext(turn, tuple(before[-_TURNS_BEFORE:]), tuple(after)))
    return contexts


class SourceScreen(ModalScreen[str]):
    """A turn in its session. The result is the slash command that the person chooses, or an empty text.

    Args:
        source: what was recalled, and for what.
        contexts: the turns it comes from; at least one.
        pinned: seqs of the turns that every prompt holds.
    """

    DEFAULT_CSS = """
    SourceScreen { align: center middle; }
    SourceScreen > #source {
        width: 90%; max-width: 110; height: 90%; max-height: 40; padding: 0 1; border: round $primary; background: $surface;
    }
    SourceScreen #facts { height: auto; max-height: 6; margin-bottom: 1; }
    SourceScreen #turns { height: 1fr; scrollbar-size-vertical: 1; }
    SourceScreen .neighbour { height: auto; color: $text-muted; padding: 0 1; margin-bottom: 1; }
    SourceScreen .source { height: auto; background: $boost; border-left: thick $accent; padding: 0 1; margin-bottom: 1; }
    SourceScreen #correction { display: none; max-height: 8; }
    SourceScreen.-correcting #correction { display: block; }
    SourceScreen #keys { height: auto; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c", "close", "Close", priority=True),
        Binding("f", "forget", "Forget"),
        Binding("c", "correct", "Correct"),
        Binding("p", "pin", "Pin"),
        Binding("y", "copy", "Copy"),
        Binding("left", "move(-1)", "Previous"),
        Binding("right", "move(1)", "Next"),
    ]

    def __init__(
        self, source: Source, contexts: Sequence[SourceContext], pinned: Collection[int] = ()
    ) -> None:
        super().__init__()
        self._source = source
        self._contexts = contexts
        self._pinned = pinned
        self._place = 0
        self._correction = MessageInput()
        self._correction.id = "correction"

    def compose(self) -> ComposeResult:
        """Yield the facts, the turns, the field for a correction, and the keys."""
        with Vertical(id="source"):
            yield Static(markup=False, id="facts")
            yield VerticalScroll(id="turns")
            yield self._correction
            yield Static(markup=False, id="keys")

    async def on_mount(self) -> None:
        """Show the first turn."""
        await self._show()
        self.query_one("#turns").focus()

    @property
    def turn(self) -> Turn:
        """The turn that is shown and that the keys work on."""
        return self._contexts[self._place].turn

    async def _show(self) -> None:
        context = self._contexts[self._place]
        self.query_one("#facts", Static).update(self._facts())
        turns = self.query_one("#turns", VerticalScroll)
        await turns.remove_children()
        main = Static(_turn_text(context.turn, _MAX_CHARACTERS), markup=False, classes="source")
        await turns.mount_all(
            [
                *(_neighbour(turn) for turn in context.before),
                main,
                *(_neighbour(turn) for turn in context.after),
            ]
        )
        self.call_after_refresh(main.scroll_visible, animate=False, top=True)
        self._show_keys()

    def _facts(self) -> Text:
        turn, item = self.turn, self._source.item
        when = f"{turn.created_at.astimezone():%Y-%m-%d %H:%M}"
        text = Text.assemble(
            (f"Turn {turn.seq}", "bold"), f" in session {one_line(turn.session)}, {when}", style=""
        )
        text.append(f" ({ago(turn.created_at, datetime.now(UTC))})")
        if turn.seq in self._pinned:
            text.append(", pinned")
        if len(self._contexts) > 1:
            text.append(f"\nSource {self._place + 1} of {len(self._contexts)}")
        if item is not None:
            text.append(f"\nScore {item.score:.2f}. {one_line(item.why)}")
            if item.superseded_by is not None:
                text.append(f"\nOutdated: turn {item.superseded_by} replaces it.", "yellow")
            if item.regenerated:
                text.append(f"\nThe memory gave it back as: {one_line(item.text)[:_MAX_NEIGHBOUR]}")
        return text

    def _show_keys(self) -> None:
        if self.has_class("-correcting"):
            keys = "Enter replaces the text for good, after a question · Esc ends the correction"
        else:
            pin = "p unpin" if self.turn.seq in self._pinned else "p pin"
            move = "← → other sources · " if len(self._contexts) > 1 else ""
            keys = f"f forget · c correct · {pin} · y copy · {move}Esc close"
        self.query_one("#keys", Static).update(keys)

    # keys

    async def action_move(self, step: int) -> None:
        """Show the next or the previous source."""
        self._place = (self._place + step) % len(self._contexts)
        await self._show()

    def action_close(self) -> None:
        """End the correction, or close the window."""
        if not self.has_class("-correcting"):
            self.dismiss("")
            return
        self.remove_class("-correcting")
        self.query_one("#turns").focus()
        self._show_keys()

    def action_forget(self) -> None:
        """Forget the turn; the command asks first."""
        self.dismiss(f"/forget {self.turn.seq}")

    def action_pin(self) -> None:
        """Pin the turn, or unpin it."""
        self.dismiss(f"/{'unpin' if self.turn.seq in self._pinned else 'pin'} {self.turn.seq}")

    def action_copy(self) -> None:
        """Copy the turn's text."""
        self.app.copy_to_clipboard(self.turn.text)
        self.notify("The turn is copied.", timeout=2)

    def action_correct(self) -> None:
        """Let the person write what takes the turn's place."""
        self.add_class("-correcting")
        self._correction.text = self.turn.text
        self._correction.move_cursor(self._correction.document.end)
        self._correction.focus()
        self._show_keys()

    @on(MessageInput.Sent)
    def _replace(self, event: MessageInput.Sent) -> None:
        event.stop()
        if event.text.strip() == self.turn.text.strip():
            self.action_close()
        else:
            self.dismiss(f"/correct {self.turn.seq} {event.text}")


def _neighbour(turn: Turn) -> Static:
    return Static(_turn_text(turn, _MAX_NEIGHBOUR), markup=False, classes="neighbour")


def _turn_text(turn: Turn, max_characters: int) -> Text:
    content = printable(turn.text[:max_characters])
    if len(turn.text) > max_characters:
        content += f"\n({len(turn.text) - max_characters:,} more characters)"
    return Text.assemble((f"{one_line(turn.speaker or turn.role)}, turn {turn.seq}\n", "bold"), content)
