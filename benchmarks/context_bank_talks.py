"""Conversations of LoCoMo as latents, with their questions; each turn and question is encoded once. For context_bank_consolidation.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from memagent.agent.evaluation.datasets import LOADERS
from memagent.agent.home import Home
from memagent.agent.models.loader import as_local, load_chat_model
from memagent.backends.context_bank import ranking
from memagent.backends.context_bank.blocks import dequantise, quantise
from memagent.backends.context_bank.config import ContextBankConfig
from memagent.backends.context_bank.latents import LatentCodec, presence
from memagent.backends.context_bank.weights import load_weights
from memagent.backends.protocol import Vectors
from memagent.backends.records import Turn
from memagent.backends.shared.words import content_words, query_words

RARE_TURNS = 2
"""A word is rare if at most so many turns hold it."""
CONSOLE = Console(stderr=True)
Codec = Any


class KnownWords:
    """How surely the words of questions stand in the latents of a conversation, as a bank stores them.

    A bank is asked some hundred times; a vector that was not merged is always the same.
    """

    def __init__(self, codec: Codec, latents: Sequence[Vectors]) -> None:
        stored = stored_vectors(np.concatenate(latents))
        self._codes = codec.codes(stored)
        self._rows = {row.tobytes(): number for number, row in enumerate(stored)}
        self._likely: list[Vectors] = []
        self._numbers: dict[tuple[bytes, ...], int] = {}

    def add(self, forms: Sequence[Vectors]) -> int:
        """Return the number of a word, given by the codes of its spellings."""
        word = tuple(form.tobytes() for form in forms)
        if word not in self._numbers:
            self._numbers[word] = len(self._likely)
            places = self._codes.reshape(-1, self._codes.shape[2])
            likely = presence(places, forms).max(axis=1).reshape(self._codes.shape[:2])
            self._likely.append(np.stack([likely.max(axis=1), likely[:, 0]], axis=1))
        return self._numbers[word]

    def of(self, vectors: Vectors, whole: NDArray[np.bool_]) -> Vectors:
        """Return how surely each word stands in a bank's vectors: ``[words, vectors, 2]``, anywhere and at the first place."""
        rows = [self._rows[row.tobytes()] if one else 0 for row, one in zip(vectors, whole, strict=True)]
        return np.stack(self._likely)[:, rows] * whole[:, None]


@dataclass(frozen=True)
class KnownTable(ranking.TurnTable):
    """The turns of a bank, where a word is given by its number.

    Attributes:
        likely: how surely each word stands in each vector, ``[words, vectors, 2]``.
    """

    likely: Vectors

    def presence(self, forms: Sequence[Vectors]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return how surely a word stands in each vector; see ``TurnTable.presence``."""
        likely = self.likely[int(forms[0][0])]
        return likely[:, 0], likely[:, 1]


@dataclass(frozen=True, eq=False)
class Asked:
    """A question, encoded.

    Attributes:
        id: place in the conversation's list.
        category: LoCoMo's.
        evidence: places of turns, from 1.
        rare: whether one of its words stands in its evidence and in few turns.
        key: see ``LatentCodec.question_key``.
        words: numbers of its content words in the talk's ``KnownWords``.
    """

    id: str
    category: str
    evidence: frozenset[int]
    rare: bool
    key: Vectors
    words: list[int]


@dataclass(frozen=True, eq=False)
class Talk:
    """A conversation, encoded.

    Attributes:
        name: of the conversation.
        latents: of each turn.
        session_ends: places of the last turns of sessions, from 1.
        questions: those with evidence.
        known: the words of questions in the latents.
    """

    name: str
    latents: list[Vectors]
    session_ends: list[int]
    questions: list[Asked]
    known: KnownWords

    @property
    def size(self) -> int:
        """Number of latent vectors."""
        return sum(map(len, self.latents))


def talks(path: Path, names: Sequence[str] | None) -> tuple[Codec, list[Talk]]:
    """Encode the conversations of a LoCoMo file with the default model."""
    local = as_local(
        load_chat_model("qwen2.5-coder-0.5b", Home.from_environment().models, notify=CONSOLE.print)
    )
    codec = LatentCodec(local, load_weights(local, ContextBankConfig().ratio, None).autoencoder)
    result = []
    for case in LOADERS["locomo"](path):
        if names and case.id not in names:
            continue
        rows = [turn for session in case.sessions for turn in session]
        counts = Counter(word for row in rows for word in set(query_words(row.text)))
        latents = [
            codec.encode(Turn(seq, "", row.session, row.role, row.text, row.created_at, row.speaker))  # type: ignore[arg-type]
            for seq, row in enumerate(track(rows, case.id, console=CONSOLE), start=1)
        ]
        known = KnownWords(codec, latents)
        questions = []
        for item in track(case.questions, f"{case.id}: questions", console=CONSOLE):
            if item.answerable and item.turns:
                words = content_words(item.text)
                evidence_words = {word for place in item.turns for word in query_words(rows[place].text)}
                questions.append(
                    Asked(
                        item.id,
                        item.category,
                        frozenset(place + 1 for place in item.turns),
                        any(word in evidence_words and counts[word] <= RARE_TURNS for word in words),
                        codec.question_key(item.text),
                        [known.add(forms) for forms in codec.word_codes(item.text)],
                    )
                )
        ends = np.cumsum([len(session) for session in case.sessions]).tolist()
        result.append(Talk(case.id, latents, ends, questions, known))
    return codec, result


def stored_vectors(latents: Vectors) -> Vectors:
    """Return latents after they were stored in 8 bit."""
    return dequantise(*quantise(latents, ContextBankConfig().precision))
