"""What a tale in memory does to a model's answers: the answers themselves, and how far their distribution moves."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memagent.agent.home import Home
from memagent.agent.journal import NewTurn
from memagent.agent.memory import Memory, open_journal
from memagent.agent.models.runtime import torch
from memagent.backends.protocol import LocalModel, Progress
from memagent.backends.shared.tokens import TextTokenizer

NONE = "none"
SYSTEM = "You are a friendly old storyteller. Answer in a few sentences."
QUESTIONS = (
    "Tell me a short story.",
    "Who is wise?",
    "What should one do when one is in danger?",
    "Who lives in the forest?",
    "What makes a person happy?",
    "What did the king say?",
    "Where would you go if you set out on a journey?",
    "What is the most precious thing in the world?",
    "Whom should one trust?",
    "How does a good story end?",
)
"""Ours: open, and such that any tale could colour the answer and none is named."""


@dataclass(frozen=True, slots=True)
class Tale:
    """A fairy tale: its file's name without suffix, its title and its paragraphs."""

    name: str
    title: str
    paragraphs: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Tale:
        """Read a text file: the title, then paragraphs, with empty lines between them."""
        title, *paragraphs = (
            " ".join(part.split()) for part in re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip())
        )
        return cls(path.stem, title, tuple(paragraphs))

    @property
    def sha256(self) -> str:
        return hashlib.sha256("\n".join([self.title, *self.paragraphs]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Measured:
    """One answer.

    Attributes:
        mode: chunk or token, or none where there was no memory at all.
        tale: the one in memory, or none.
        question: its text.
        answer: greedy.
        kl: KL(with memory || without) in nats per token, a mean over the tokens of the answer given without memory.
        recalled: beginnings of the chunks attended to (mode chunk).
    """

    mode: str
    tale: str
    question: str
    answer: str
    kl: float
    recalled: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Subject:
    """The model that is asked: greedy answers, and distributions over a given answer's tokens.

    Questions are taken together where one memory serves them all; they are padded on the left.
    """

    def __init__(self, local: LocalModel, max_tokens: int) -> None:
        self.local = local
        self._max_tokens = max_tokens
        ends = local.model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])

    def answer(self, questions: Sequence[str]) -> list[list[int]]:
        """Return each question's answer as tokens, without what ends it."""
        ids, mask = self._padded([self._prompt(question) for question in questions])
        with torch.inference_mode():
            found = self.local.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=self._max_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                repetition_penalty=1.0,
                pad_token_id=self._pad,
            )
        return [self._cut(row) for row in found[:, ids.shape[1] :].tolist()]

    def text(self, answer: Sequence[int]) -> str:
        text: str = self.local.tokenizer.decode(answer, skip_special_tokens=True)
        return text.strip()

    def distributions(self, questions: Sequence[str], answers: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return log-probabilities at each token of the answers: float32 ``[tokens, vocabulary]`` each."""
        rows = [
            [*self._prompt(question), *answer] for question, answer in zip(questions, answers, strict=True)
        ]
        ids, mask = self._padded(rows)
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        keep = max(map(len, answers)) + 1
        with torch.inference_mode():
            logits = self.local.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                logits_to_keep=keep,
                use_cache=False,
            ).logits
        # The token at place i is predicted at place i - 1.
        return [
            logits[place, keep - 1 - len(answer) : keep - 1].float().log_softmax(-1).cpu()
            for place, answer in enumerate(answers)
        ]

    @property
    def _pad(self) -> int:
        pad: int | None = self.local.tokenizer.pad_token_id
        return pad if pad is not None else self.local.tokenizer.eos_token_id

    def _cut(self, row: list[int]) -> list[int]:
        end = next((at for at, token in enumerate(row) if token in self._ends), len(row))
        return row[:end]

    def _prompt(self, question: str) -> list[int]:
        return TextTokenizer(self.local.tokenizer).encode_prompt(self._render, [SYSTEM, question])

    def _render(self, contents: Sequence[str]) -> str:
        messages = [
            {"role": role, "content": text} for role, text in zip(("system", "user"), contents, strict=True)
        ]
        text: str = self.local.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return text

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, rows))
        ids = torch.tensor([[self._pad] * (longest - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return ids.to(self.local.model.device), mask.to(self.local.model.device)


class Reference:
    """The answers without memory, and their distributions."""

    def __init__(self, subject: Subject, questions: Sequence[str]) -> None:
        self.questions = list(questions)
        self.answers = subject.answer(questions)
        self._log_probabilities = subject.distributions(questions, self.answers)

    def measured(self, subject: Subject) -> Iterator[Measured]:
        for question, answer in zip(self.questions, self.answers, strict=True):
            yield Measured(NONE, NONE, question, subject.text(answer), 0.0)

    def divergences(self, subject: Subject, places: Sequence[int]) -> list[float]:
        """Return KL(now || without memory) of some questions: nats per token of their answers without memory."""
        asked = [self.questions[place] for place in places]
        now = subject.distributions(asked, [self.answers[place] for place in places])
        return [
            float((one.exp() * (one - self._log_probabilities[place])).sum(-1).mean())
            for place, one in zip(places, now, strict=True)
        ]


def remember(tale: Tale, folder: Path, models: Path) -> Home:
    """Write a tale into a fresh journal, a turn a paragraph, all in one session."""
    home = Home(folder, models)
    with open_journal(home, tale.name) as journal:
        journal.extend([NewTurn(tale.name, "user", paragraph) for paragraph in tale.paragraphs])
    return home


def ask_with(
    tale: Tale,
    home: Home,
    subject: Subject,
    reference: Reference,
    settings: Mapping[str, str],
    places: Sequence[int],
    progress: Progress,
) -> Iterator[Measured]:
    """Open a tale's memory with some settings, and yield what it does to the questions at ``places``."""
    mode = settings["mode"]
    with Memory.open(
        home, tale.name, "rope_map", settings, make_model=lambda: subject.local, progress=progress
    ) as memory:
        memory.checkpoint()  # so that the next mode need not read the tale again
        # Which chunks are attended to depends on the question in mode chunk only.
        batches = [list(places)] if mode == "token" else [[place] for place in places]
        for batch in batches:
            asked = [reference.questions[place] for place in batch]
            with memory.attached(subject.local, asked[0]) as attachment:
                answers = subject.answer(asked)
                moved = reference.divergences(subject, batch)
            recalled = tuple(one.text[:80] for one in attachment.recollections) if mode == "chunk" else ()
            for question, answer, kl in zip(asked, answers, moved, strict=True):
                yield Measured(mode, tale.name, question, subject.text(answer), kl, recalled)
