"""Random conversations for tests of the context bank: turns with vectors, and uses that replies make of turns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memagent.backends.context_bank.bank import ContextBank

DIM = 12


@dataclass(frozen=True)
class Event:
    """A turn with its vectors, or a reply with the turns that it used; ``vectors`` is None for a reply."""

    seq: int
    vectors: NDArray[np.float32] | None
    used: tuple[int, ...] = ()


def conversation(seed: int, num_turns: int, *, gap: int = 1, most: int = 5) -> list[Event]:
    """Return turns of up to ``most`` vectors around a few topics, a reply after every third, seqs up to ``gap`` apart."""
    draw = np.random.default_rng(seed)
    topics = draw.normal(size=(7, DIM))
    events: list[Event] = []
    seqs: list[int] = []
    seq = 0
    for number in range(num_turns):
        seq += int(draw.integers(1, gap + 1))
        size = int(draw.integers(1, most + 1))
        noise = draw.normal(size=(size, DIM)) / 3
        events.append(Event(seq, (topics[draw.integers(7, size=size)] + noise).astype(np.float32)))
        seqs.append(seq)
        if number % 3 == 2:
            seq += 1
            used = draw.choice(seqs, size=min(len(seqs), 4), replace=False)
            events.append(Event(seq, None, tuple(used.tolist())))
    return events


def replay(bank: ContextBank, events: Sequence[Event], forgotten: Collection[int] = ()) -> ContextBank:
    """Hand events to a bank, but for some turns and replies; used turns that are forgotten are still named."""
    for event in events:
        if event.seq in forgotten:
            continue
        if event.vectors is None:
            bank.note_use(event.seq, event.used)
        else:
            bank.add(event.seq, event.vectors)
    return bank


def vectors_of(events: Sequence[Event], seqs: Collection[int]) -> dict[int, NDArray[np.float32]]:
    """Return the original vectors of some turns."""
    return {event.seq: event.vectors for event in events if event.vectors is not None and event.seq in seqs}


def state_bytes(bank: ContextBank) -> dict[str, Any]:
    """Return the state of a bank in a form that compares byte by byte."""
    return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in bank.tensors().items()}
