"""What happens during one turn of a conversation, as it happens. Renderers know these and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from memagent.backends.records import Recollection, Turn, WriteResult


@dataclass(frozen=True, slots=True)
class TurnBegan:
    """The user's message is in the journal."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Recalled:
    """Memory was asked.

    Attributes:
        found: what it brought to mind.
        shown: what of it reaches the model: in the prompt, where it fits, or inside the model's attention.
        seconds: the recall's time.
    """

    found: tuple[Recollection, ...]
    shown: tuple[Recollection, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """A turn is in the journal, and memory was given it unless ``taken`` is False.

    Attributes:
        taken: False: the turn stays in the journal only.
        why: the reason, in one sentence.
        result: what became of it in memory; None if it was not given it.
    """

    turn: Turn
    taken: bool
    why: str
    result: WriteResult | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Sizes in tokens, as the model counts them."""

    prompt_tokens: int
    recollection_tokens: int
    reply_tokens: int
    window: int


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall-clock times of one turn. ``first_token`` runs from the message to the first piece of the reply."""

    recall: float
    first_token: float
    total: float


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The reply is complete, or was stopped; either way its text so far is in the journal."""

    reply: str
    stopped: bool
    usage: Usage
    seconds: Seconds


Event = TurnBegan | Recalled | Token | Remembered | TurnEnded
