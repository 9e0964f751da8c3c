"""LoCoMo in its official format (Maharana et al., arXiv 2402.17753; snap-research/locomo).

A turn's text is followed by the caption of its image. Evidence ids are extracted from free text (``"D1:3; D2:4"``, ``"D9:1 D4:4 D4:6"``), and those that name no turn are dropped. Category
ids: 1 multi-hop, 2 temporal, 3 open-domain inference, 4 single-hop, 5 adversarial: no answer exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from memagent.agent.evaluation.datasets.dataset import Case, Dataset, Question, open_dataset, validate_record
from memagent.agent.journal.records import NewTurn
from memagent.backends.errors import InputError

_ADVERSARIAL = 5
_SESSION = re.compile(r"session_\d+")
_EVIDENCE = re.compile(r"D\d+:\d+")
_DATE = "%I:%M %p on %d %B, %Y"


class _TurnRecord(BaseModel):
    speaker: str
    dia_id: str
    text: str
    blip_caption: str | None = None


class _QuestionRecord(BaseModel):
    question: str
    category: int = Field(ge=1, le=5)
    evidence: list[str] = []
    answer: str | int | float | None = None
    adversarial_answer: str | int | float | None = None


class _ConversationRecord(BaseModel):
    model_config = ConfigDict(extra="ignore")

    sample_id: str
    conversation: dict[str, Any]
    qa: list[_QuestionRecord]


def load(path: Path) -> Dataset:
    """Open a LoCoMo file.

    Raises:
        InputError: see ``open_dataset``.
    """
    return open_dataset("locomo", path, "1-4", _parse)


def _parse(raw: Any, where: str) -> Case:
    """Make a case of a record; the id of a question is its place in ``qa``, from 0."""
    record = validate_record(_ConversationRecord, raw, where)
    where = f"{where} ({record.sample_id})"
    sessions: list[tuple[NewTurn, ...]] = []
    places: dict[str, int] = {}
    session_of: dict[str, str] = {}
    for name in _session_names(record.conversation):
        turns = []
        for dialogue_id, turn in _turns(record.conversation, name, where):
            if dialogue_id in places:
                raise InputError(f"{where}: the dialogue id {dialogue_id} is there twice.")
            places[dialogue_id] = len(places)
            session_of[dialogue_id] = name
            turns.append(turn)
        if turns:
            sessions.append(tuple(turns))
    questions = []
    for question_number, question in enumerate(record.qa):
        named_ids = _EVIDENCE.findall(" ".join(question.evidence))
        evidence = [dialogue_id for dialogue_id in named_ids if dialogue_id in places]
        questions.append(
            Question(
                id=str(question_number),
                text=question.question,
                category=str(question.category),
                answerable=question.category != _ADVERSARIAL,
                turns=frozenset(places[dialogue_id] for dialogue_id in evidence),
                sessions=frozenset(session_of[dialogue_id] for dialogue_id in evidence),
                answers=() if question.answer is None else (str(question.answer),),
            )
        )
    return Case(record.sample_id, tuple(sessions), tuple(questions))


def _session_names(conversation: dict[str, Any]) -> list[str]:
    names = [key for key in conversation if _SESSION.fullmatch(key)]
    return sorted(names, key=lambda name: int(name.removeprefix("session_")))


def _turns(conversation: dict[str, Any], name: str, where: str) -> Iterator[tuple[str, NewTurn]]:
    """Yield a session's turns with their dialogue ids; the first speaker is the user."""
    try:
        started_at = datetime.strptime(conversation[f"{name}_date_time"], _DATE).replace(tzinfo=UTC)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{where}: {name}_date_time is missing or not like '1:56 pm on 8 May, 2023': {error}."
        ) from error
    if not isinstance(conversation[name], list):
        raise InputError(f"{where}: {name} is not a list of turns.")
    for question_number, raw in enumerate(conversation[name]):
        turn = validate_record(_TurnRecord, raw, f"{where}: {name}[{question_number}]")
        text = f"{turn.text} [{turn.blip_caption}]" if turn.blip_caption else turn.text
        role = "user" if turn.speaker == conversation.get("speaker_a") else "assistant"
        text = text.replace("\0", "")
        if text.strip():
            yield turn.dia_id, NewTurn(name, role, text, speaker=turn.speaker, created_at=started_at)
