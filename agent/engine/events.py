"""The events of one turn of a conversation. Interfaces render these and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from memagent.backends.records import Recollection, Turn, WriteResult


@dataclass(frozen=True, slots=True)
class TurnBegan:
    """The user's message is in the journal.

    Attributes:
        turn: the message.
    """

    turn: Turn


@dataclass(frozen=True, slots=True)
class Recalled:
    """Memory has recalled.

    Attributes:
        recollections: all recollections, best first.
        in_view: those that the model gets: in the prompt, as far as they fit, or by the model channel.
        seconds: duration of the recall.
    """

    recollections: tuple[Recollection, ...]
    in_view: tuple[Recollection, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Token:
    """The next part of the reply.

    Attributes:
        text: one token or several, as the model streams them.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """A turn is in the journal, and memory has read it unless ``journal_only`` is True.

    Attributes:
        turn: the turn.
        journal_only: True if memory does not get the turn.
        why: the reason, in one sentence.
        results: what each backend did with the turn, by the backend's name; empty if memory does not get it.
    """

    turn: Turn
    journal_only: bool
    why: str
    results: Mapping[str, WriteResult] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """Sizes of one turn in tokens, as the model counts them.

    Attributes:
        prompt_tokens: size of the whole prompt.
        recollection_tokens: size of the recollections in it.
        reply_tokens: size of the reply.
        window: size of the model's context window.
    """

    prompt_tokens: int
    recollection_tokens: int
    reply_tokens: int
    window: int


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall-clock times of one turn, in seconds.

    Attributes:
        recall: duration of the recall.
        first_token: from the message to the first token of the reply.
        total: from the message to the end of the reply.
    """

    recall: float
    first_token: float
    total: float


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The reply has ended. Its text is in the journal.

    Attributes:
        reply: text of the reply, without white space around it.
        stopped: True if the reply was stopped before its end.
        usage: sizes in tokens.
        seconds: durations.
    """

    reply: str
    stopped: bool
    usage: Usage
    seconds: Seconds


Event = TurnBegan | Recalled | Token | Remembered | TurnEnded
