"""The memories and questions that recall is fitted and reported on, see fit_recall.py."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import yaml

from memagent.agent.evaluation.datasets import LOADERS
from memagent.backends.protocol import MemoryBackend
from memagent.backends.records import Turn

DATA = Path(__file__).parent / "data"
FIT = ("conv-26", "conv-30", "conv-41")


@dataclass
class Question:
    text: str
    relevant: frozenset[int]
    kind: str


@dataclass
class Part:
    """One memory with questions about it."""

    name: str
    fit: bool
    turns: list[Turn]
    questions: list[Question]
    memories: dict[str, MemoryBackend] = field(default_factory=dict)


def turns_of(rows: Sequence[tuple[str, str]], sessions: int = 40) -> list[Turn]:
    """Return texts of (role, text) as turns of a journal."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        Turn(
            seq,
            uuid5(NAMESPACE_OID, str(seq)).hex,
            f"s{seq % sessions}",
            role,
            text,
            began + timedelta(hours=seq),
        )
        for seq, (role, text) in enumerate(rows, start=1)
    ]


def locomo(path: Path) -> Iterator[Part]:
    for case in LOADERS["locomo"](path):
        rows = [turn for session in case.sessions for turn in session]
        turns = [
            Turn(
                seq,
                uuid5(NAMESPACE_OID, str(seq)).hex,
                row.session,
                row.role,
                row.text,
                row.created_at or datetime(2026, 1, 1, tzinfo=UTC),
                row.speaker,
            )
            for seq, row in enumerate(rows, start=1)
        ]
        questions = [
            Question(
                item.text,
                frozenset(place + 1 for place in item.turns) if item.answerable else frozenset(),
                kind,
            )
            for item in case.questions
            for kind in (
                ["answerable"]
                if item.answerable and item.turns
                else ["category 5"]
                if not item.answerable
                else []
            )
        ]
        yield Part(case.id, case.id in FIT, turns, questions)


def abstention() -> Part:
    data = json.loads((DATA / "abstention.json").read_text(encoding="utf-8"))
    rows = [("user", fact["text"]) for fact in data["facts"]]
    rows += [("user", text) for text in data["statements"]]
    rows += [("assistant", text) for text in data["assistant_statements"]]
    questions = [
        Question(text, frozenset({seq}), "answerable")
        for seq, fact in enumerate(data["facts"], start=1)
        for text in fact["questions"]
    ]
    questions += [
        Question(text, frozenset(), "unanswerable" if kind == "never_told" else "needs none")
        for kind, texts in data["unanswerable"].items()
        for text in texts
    ]
    return Part("abstention", True, turns_of(rows), questions)


def languages(*, fit: bool) -> Iterator[Part]:
    """Yield for each language memories of the facts of one half: of all, of five, two and one of them. People begin with few.

    Each is asked about all its facts, and as often for what none of them answers, and for what needs no memory.
    """
    for language, entries in spoken().items():
        kinds = [entries[kind][0 if fit else 1 :: 2] for kind in ("facts", "unanswerable", "needs_none")]
        for size in (len(kinds[0]), 5, 2, 1):
            for start in range(0, len(kinds[0]), size):
                facts, unanswerable, needs_none = (entry[start : start + size] for entry in kinds)
                questions = [
                    Question(question, frozenset({seq}), "answerable")
                    for seq, (_, question) in enumerate(facts, start=1)
                ]
                questions += [Question(text, frozenset(), "unanswerable") for text in unanswerable]
                questions += [Question(text, frozenset(), "needs none") for text in needs_none]
                turns = turns_of([("user", fact) for fact, _ in facts])
                yield Part(f"{language} {size}", fit, turns, questions)


def several(*, fit: bool) -> Iterator[Part]:
    """Yield memories of one half of data/several.yaml: what answers a question alone, and all facts of a language together."""
    languages_ = yaml.safe_load((DATA / "several.yaml").read_text(encoding="utf-8"))
    for language, entries in languages_.items():
        half = entries[0 if fit else 1 :: 2]
        for number, group in enumerate([*([entry] for entry in half), half], start=1):
            rows: list[tuple[str, str]] = []
            questions = []
            for facts, question in group:
                seqs = frozenset(range(len(rows) + 1, len(rows) + len(facts) + 1))
                rows += [("user", fact) for fact in facts]
                questions.append(Question(question, seqs, "several"))
            others = spoken()[language]
            for kind, name in (("unanswerable", "unanswerable"), ("needs_none", "needs none")):
                questions += [
                    Question(text, frozenset(), name) for text in others[kind][0 if fit else 1 :: 2]
                ]
            yield Part(f"several {language} {number}", fit, turns_of(rows), questions)


def assistant_part(*, fit: bool) -> Part:
    """Return what an assistant said in one half of data/assistant.yaml, among facts about users, with questions about all of it."""
    half = 0 if fit else 1
    languages_ = yaml.safe_load((DATA / "assistant.yaml").read_text(encoding="utf-8"))
    rows, questions = [], []
    for language, entries in spoken().items():
        pairs = [("assistant", *pair) for pair in languages_[language][half::2]]
        pairs += [("user", *pair) for pair in entries["facts"][half::2]]
        for role, text, question in pairs:
            rows.append((role, text))
            kind = "asked of the assistant" if role == "assistant" else "answerable"
            questions.append(Question(question, frozenset({len(rows)}), kind))
        questions += [
            Question(text, frozenset(), "unanswerable") for text in entries["unanswerable"][half::2]
        ]
        questions += [Question(text, frozenset(), "needs none") for text in entries["needs_none"][half::2]]
    return Part("assistant", fit, turns_of(rows), questions)


def literal_part(*, fit: bool) -> Part:
    """Return statements with codes and numbers, asked for by the code alone, and codes that stand nowhere."""
    draw = random.Random(0 if fit else 1)

    def code() -> str:
        digits = "".join(draw.choices("0123456789", k=10))
        letters = "".join(draw.choices("ABCDEFGHKLMNPRSTVXYZ", k=3))
        kinds = (
            f"{letters[0]}{digits[:4]}",
            f"{letters}-{digits[:3]}",
            f"{digits[0]}.{digits[1:3]}.{digits[3]}",
        )
        return draw.choice((*kinds, f"{digits[:3]}-{digits[3:6]} {digits[6:]}"))

    templates = (
        "Error {} happens when the pump is dry.",
        "My order number is {}.",
        "The new release is {}.",
        "Kovac can be reached at {}.",
        "The spare part is listed as {} in the catalogue.",
    )
    rows, questions = [], []
    for seq in range(1, 21):
        known, unknown = code(), code()
        rows.append(("user", draw.choice(templates).format(known)))
        for text in (known, f"What was {known}?"):
            questions.append(Question(text, frozenset({seq}), "literal"))
        questions.append(Question(unknown, frozenset(), "unanswerable"))
    return Part("literals", fit, turns_of(rows), questions)


def spoken() -> dict[str, Any]:
    languages_: dict[str, Any] = yaml.safe_load((DATA / "languages.yaml").read_text(encoding="utf-8"))
    return languages_
