"""What memory did in each turn of a conversation, and its lines in the memory panel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from memagent.cli.rendering.output import one_line
from memagent.cli.rendering.phrases import age, ago
from memagent.cli.rendering.text import excerpt

if TYPE_CHECKING:
    from memagent.agent.engine.events import Recalled, Remembered
    from memagent.backends.records import Recollection, Turn, WriteResult

_MAX_HEADING = 60
_MAX_EXCERPT = 160
_MAX_NAME = 24


@dataclass(frozen=True)
class Source:
    """The turns that a row of the panel comes from.

    Attributes:
        seqs: of the turns; at least one.
        query: the message for which they were recalled; empty: they were not.
        item: what was recalled; None: it is known from the journal only that they were.
    """

    seqs: tuple[int, ...]
    query: str = ""
    item: Recollection | None = None


@dataclass(frozen=True)
class Row:
    """One entry of the panel's list.

    Attributes:
        text: what it shows.
        source: what Enter opens; None: nothing.
        reason: why memory did so; empty: there is nothing to say.
    """

    text: Text
    source: Source | None = None
    reason: str = ""


@dataclass
class TurnRecord:
    """What memory did for one message.

    Attributes:
        message: the message that began the turn.
        recalled: what was recalled for it; None: it was sent before this chat was opened.
        earlier: what its replies of an earlier chat had in view, by the journal.
        remembered: what memory did with the message and the reply.
        is_changed: whether something of it was forgotten.
    """

    message: Turn
    recalled: Recalled | None = None
    earlier: list[Turn] = field(default_factory=list)
    remembered: list[Remembered] = field(default_factory=list)
    is_changed: bool = False

    @property
    def place(self) -> int:
        """The place in the list: records stand in this order."""
        return self.message.seq

    def forget(self, seqs: Collection[int]) -> None:
        """Drop what comes from turns that are forgotten."""
        is_kept = set(seqs).isdisjoint
        if self.recalled is not None:
            recollections, in_view = (
                tuple(_without_mark(item, seqs) for item in items if is_kept(item.seqs))
                for items in (self.recalled.recollections, self.recalled.in_view)
            )
            self.is_changed |= len(recollections) < len(self.recalled.recollections)
            self.recalled = replace(self.recalled, recollections=recollections, in_view=in_view)
        self.earlier = [turn for turn in self.earlier if turn.seq not in seqs]
        self.remembered = [event for event in self.remembered if event.turn.seq not in seqs]

    def rows(self, pinned: Collection[int], now: datetime) -> list[Row]:
        """Return its rows, the heading first.

        Args:
            pinned: seqs of the turns that every prompt holds.
            now: the time from which ages are counted.
        """
        query = self.message.text
        rows = [_heading(self.message)]
        if self.recalled is not None:
            rows += _recalled_rows(self.recalled, query, pinned, now, is_changed=self.is_changed)
        rows += [_earlier_row(turn, query, pinned, now) for turn in self.earlier]
        rows += [row for event in self.remembered for row in _remembered_rows(event)]
        return rows


@dataclass(frozen=True)
class ForgetRecord:
    """Turns that were forgotten while the chat was open.

    Attributes:
        seqs: of the turns and of the replies that were forgotten with them.
        place: seq of the last turn that stands above it.
    """

    seqs: tuple[int, ...]
    place: int

    def rows(self, pinned: Collection[int], now: datetime) -> list[Row]:
        """Return its row."""
        numbers = ", ".join(map(str, self.seqs[:20])) + (", ..." if len(self.seqs) > 20 else "")
        noun = "turn" if len(self.seqs) == 1 else "turns"
        return [Row(Text(f"- forgot {noun} {numbers} for good", "red"))]


Record = TurnRecord | ForgetRecord


def records_of(turns: Sequence[Turn], sources: dict[int, Turn]) -> list[TurnRecord]:
    """Return the records of past turns, as far as the journal knows.

    Args:
        turns: of one session, oldest first.
        sources: the turns that replies recalled, by seq.
    """
    records: list[TurnRecord] = []
    for turn in turns:
        if turn.role == "user" or not records:
            records.append(TurnRecord(turn))
        if turn.role == "assistant":
            records[-1].earlier += [sources[seq] for seq in turn.recalled if seq in sources]
    return records


def _without_mark(item: Recollection, seqs: Collection[int]) -> Recollection:
    """Return a recollection without the mark that a forgotten turn replaces it."""
    if item.superseded_by not in seqs:
        return item
    return replace(item, superseded_by=None, superseded_at=None)


def _heading(turn: Turn) -> Row:
    line = one_line(turn.text[: 4 * _MAX_HEADING]).strip()
    if len(line) > _MAX_HEADING:
        line = line[:_MAX_HEADING].rstrip() + "..."
    text = Text.assemble((line, "bold"), (f"  turn {turn.seq}", "dim"))
    return Row(text, Source((turn.seq,)))


def _recalled_rows(
    recalled: Recalled, query: str, pinned: Collection[int], now: datetime, *, is_changed: bool
) -> list[Row]:
    duration = f"{recalled.seconds * 1000:.0f} ms"
    count = len(recalled.recollections)
    if not count:
        summary = "what was recalled is forgotten" if is_changed else f"nothing was recalled, {duration}"
        return [Row(Text(f"  {summary}", "dim"))]
    omitted = count - len(recalled.in_view)
    summary = f"  recalled {count} in {duration}"
    summary += f", {omitted} did not fit the prompt" if omitted else ""
    in_view = {item.seqs for item in recalled.in_view}
    rows = [Row(Text(summary, "dim"))]
    for item in recalled.recollections:
        facts = _facts(item, pinned, now)
        facts += [] if item.seqs in in_view else [Text("not in the prompt")]
        text = _item_text(f"{item.score:.2f}", facts, item.text, query)
        if item.seqs not in in_view:
            text.stylize("dim")
        rows.append(Row(text, Source(item.seqs, query, item), item.why))
    return rows


def _facts(item: Recollection, pinned: Collection[int], now: datetime) -> list[Text]:
    """Return what the first line of a recollection says about it, the most important first."""
    facts: list[Text] = []
    if item.superseded_by is not None:
        duration = f" for {age(item.superseded_at, now)}" if item.superseded_at else ""
        facts.append(Text(f"outdated{duration}, see turn {item.superseded_by}", "yellow"))
    if any(seq in pinned for seq in item.seqs):
        facts.append(Text("pinned", "bold"))
    if item.regenerated:
        facts.append(Text("regenerated"))
    facts.append(Text(ago(item.created_at, now)))
    facts.append(Text(_short(item.speaker or item.role)))
    facts.append(Text(_short(item.session)))
    facts.append(Text(f"turn {item.seqs[0]}" + (f" and {len(item.seqs) - 1} more" if item.seqs[1:] else "")))
    return facts


def _earlier_row(turn: Turn, query: str, pinned: Collection[int], now: datetime) -> Row:
    facts = [
        *([Text("pinned", "bold")] if turn.seq in pinned else []),
        Text(ago(turn.created_at, now)),
        Text(_short(turn.speaker or turn.role)),
        Text(_short(turn.session)),
        Text(f"turn {turn.seq}"),
    ]
    return Row(_item_text("recalled", facts, turn.text, query), Source((turn.seq,), query))


def _item_text(label: str, facts: Sequence[Text], content: str, query: str) -> Text:
    """Return two lines: the label with facts, and the content."""
    first = Text(" · ", "dim").join(Text(fact.plain, fact.style or "dim") for fact in facts)
    line = one_line(excerpt(content, query, _MAX_EXCERPT)).strip()
    return Text.assemble(("  ", ""), (label, "bold cyan"), "  ", first, "\n  ", line)


def _remembered_rows(event: Remembered) -> list[Row]:
    who = "reply" if event.turn.role == "assistant" else "message"
    begin = (f"  + {who} {event.turn.seq}: ", "green")
    source = Source((event.turn.seq,))
    if event.journal_only or not event.results:
        what = "journal only" if event.journal_only else "remembered"
        return [Row(Text.assemble(begin, (what, "dim")), source, event.why)]
    is_named = len(event.results) > 1
    return [
        Row(
            Text.assemble(
                begin, (f"{one_line(name)} " if is_named else "", "dim"), ", ".join(_result_words(result))
            ),
            source,
        )
        for name, result in event.results.items()
    ]


def _result_words(result: WriteResult) -> list[str]:
    """Return what a backend did with a turn."""
    words = ["stored" if result.stored else "nothing new"]
    if result.surprise is not None:
        words.append(f"surprise {result.surprise:.2f}")
    if result.strength is not None:
        words.append(f"strength {result.strength:.2f}")
    if result.merged_into is not None:
        words.append(f"merged into turn {result.merged_into}")
    if result.supersedes:
        words.append(f"replaces turn {', '.join(map(str, result.supersedes))}")
    return words


def _short(name: str) -> str:
    line = one_line(name)
    return line if len(line) <= _MAX_NAME else line[: _MAX_NAME - 3] + "..."
