"""The records that the agent and a backend exchange: turns, hits, and reports of writing, training and consolidating."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from memagent.backends.picture import Picture


@dataclass(frozen=True, slots=True)
class Attachment:
    """Describes a file that belongs to a turn. The journal stores its bytes.

    Attributes:
        media_type: such as ``image/png``.
        size: in bytes.
        sha256: digest of the bytes, 64 hexadecimal digits.
    """

    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation, as the journal stores it.

    Attributes:
        seq: position in the user's journal, from 1, never reused.
        id: 32 hexadecimal digits; a turn keeps its id when it is exported to another machine.
        session: name of the conversation.
        role: ``user``, ``assistant``, ``system`` or ``tool``.
        text: the message; never empty.
        created_at: time of the message, with time zone.
        speaker: name of the person, where the role does not identify them (group chats, transcripts).
        in_view: seqs of the turns that the model saw when it wrote this reply: in its prompt or by the model channel.
        derived: True if the reply was written with recollections in view, or if the turn is an item of a store that is not
            searched (``journal.items``). A backend is never handed a derived turn,
            so recalled text is not remembered a second time.
        recalled: those of ``in_view`` that are recollections, not recent turns of the conversation.
        attachments: the turn's files, in order.
    """

    seq: int
    id: str
    session: str
    role: str
    text: str
    created_at: datetime
    speaker: str | None = None
    in_view: tuple[int, ...] = ()
    derived: bool = False
    recalled: tuple[int, ...] = ()
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """One item that a backend recalls. ``Memory`` adds its provenance from the journal: see ``Recollection``.

    Attributes:
        seqs: the turns that the item comes from, oldest first; at least one.
        score: a higher score is more relevant. Scores are comparable within one recall of one backend only.
        why: one sentence for a person that says why the backend recalls this item.
        text: the text for the prompt; empty: the text of the first turn.
        regenerated: True if the text comes from weights and not from the journal.
        superseded_by: seq of the later turn that replaces this item, or None if the backend knows of none.
    """

    seqs: tuple[int, ...]
    score: float
    why: str
    text: str = ""
    regenerated: bool = False
    superseded_by: int | None = None


@dataclass(frozen=True, slots=True)
class Recollection:
    """A hit with its provenance from the journal.

    Attributes:
        text: the text for the prompt.
        score: as in ``Hit``.
        seqs: as in ``Hit``.
        session: session of the first turn.
        role: role of the first turn.
        created_at: time of the first turn, with time zone.
        why: as in ``Hit``.
        speaker: speaker of the first turn.
        regenerated: as in ``Hit``.
        superseded_by: seq of the later turn that replaces this item, if the journal still has that turn.
        superseded_at: time of that later turn, with time zone.
    """

    text: str
    score: float
    seqs: tuple[int, ...]
    session: str
    role: str
    created_at: datetime
    why: str
    speaker: str | None = None
    regenerated: bool = False
    superseded_by: int | None = None
    superseded_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Says what a backend did with one turn.

    Attributes:
        seq: seq of the turn.
        stored: False if the backend stored nothing new: it has the turn already, or the turn says nothing new.
        surprise: how unexpected the turn was to a memory that predicts its input, in the backend's own unit; a higher
            value is more unexpected.
        strength: how strongly the turn was written, 0 to 1.
        merged_into: seq of the earlier turn whose item now represents this turn too.
        supersedes: seqs of earlier turns that this turn replaces.
    """

    seq: int
    stored: bool = True
    surprise: float | None = None
    strength: float | None = None
    merged_into: int | None = None
    supersedes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Use:
    """One reply that was written with recollections in view.

    Attributes:
        seq: seq of the reply. When the reply is forgotten, this use no longer counts.
        recalled: seqs of the turns that the recollections come from.
        created_at: time of the reply, with time zone.
    """

    seq: int
    recalled: tuple[int, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Says what training a backend's weights costs, before it starts.

    Attributes:
        summary: one sentence: what is trained, and on what.
        minutes: estimated duration on this machine.
        bytes: size of the files that training writes.
        done: True if the weights exist already.
        resumable: True if an interrupted training continues where it stopped; else it starts again.
    """

    summary: str
    minutes: float
    bytes: int
    done: bool = False
    resumable: bool = True


@dataclass(frozen=True, slots=True)
class ConsolidationReport:
    """Says what a consolidation did.

    Attributes:
        before: number of items before it.
        after: number of items after it.
        summary: one sentence about what was merged, compacted or dropped.
        pictures: what was merged with what, and why, as plain data.
    """

    before: int
    after: int
    summary: str
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendStats:
    """Says what a backend stores and what it costs.

    Attributes:
        items: number of things that it can recall (turns, chunks, latents).
        tokens: tokens of text that it has read, counted by its own tokenizer; 0 if it does not count.
        bytes_on_disk: size of its working files.
        bytes_in_memory: estimated size of what it stores in RAM, without shared models.
        extras: further figures, by name.
    """

    items: int
    tokens: int
    bytes_on_disk: int
    bytes_in_memory: int
    extras: Mapping[str, str | int | float] = field(default_factory=dict)
