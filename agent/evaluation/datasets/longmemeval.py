"""LongMemEval in its official format (Wu et al., arXiv 2410.10813; xiaowu0162/LongMemEval): S, M or oracle.

Every record is a conversation of its own with one question. Evidence turns are those marked
``has_answer``, evidence sessions those of ``answer_session_ids``. Questions whose id ends in ``_abs``
have no answer.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from memagent.agent.evaluation.datasets.dataset import Case, Dataset, Question, open_dataset, validate_record
from memagent.agent.journal.records import NewTurn
from memagent.backends.errors import InputError

_DATE = "%Y/%m/%d (%a) %H:%M"


class _TurnRecord(BaseModel):
    role: Literal["user", "assistant"]
    content: str
    has_answer: bool = False


class _ConversationRecord(BaseModel):
    question_id: str
    question_type: str
    question: str
    answer: str | int | float
    haystack_dates: list[str]
    haystack_session_ids: list[str]
    haystack_sessions: list[list[_TurnRecord]]
    answer_session_ids: list[str]


def load(path: Path) -> Dataset:
    """Open a LongMemEval file.

    Raises:
        InputError: see ``open_dataset``.
    """
    return open_dataset("longmemeval", path, "all", _parse)


def _parse(raw: Any, where: str) -> Case:
    """Make a case of a record: its sessions in order of time, and its one question."""
    record = validate_record(_ConversationRecord, raw, where)
    where = f"{where} ({record.question_id})"
    counts = {len(record.haystack_dates), len(record.haystack_session_ids), len(record.haystack_sessions)}
    if len(counts) != 1:
        raise InputError(f"{where}: dates, ids and sessions of the haystack differ in number.")
    order = sorted(
        range(len(record.haystack_sessions)),
        key=lambda number: _date(record.haystack_dates[number], where),
    )
    sessions, evidence, place = [], set(), 0
    names: dict[str, list[str]] = {}
    used_names: set[str] = set()
    for number in order:
        session_id = record.haystack_session_ids[number]
        started_at = _date(record.haystack_dates[number], where)
        name = session_id
        while name in used_names:  # an id may come twice
            name = f"{name} again"
        turns = []
        for turn in record.haystack_sessions[number]:
            text = turn.content.replace("\0", "")
            if not text.strip():
                continue
            if turn.has_answer:
                evidence.add(place)
            turns.append(NewTurn(name, turn.role, text, created_at=started_at))
            place += 1
        if turns:
            used_names.add(name)
            names.setdefault(session_id, []).append(name)
            sessions.append(tuple(turns))
    question = Question(
        id=record.question_id,
        text=record.question,
        category=record.question_type,
        answerable=not record.question_id.endswith("_abs"),
        turns=frozenset(evidence),
        sessions=frozenset(
            name for session_id in record.answer_session_ids for name in names.get(session_id, ())
        ),
        answers=(str(record.answer),),
    )
    return Case(record.question_id, tuple(sessions), (question,))


def _date(text: str, where: str) -> datetime:
    try:
        return datetime.strptime(text, _DATE).replace(tzinfo=UTC)
    except ValueError as error:
        raise InputError(f"{where}: the date {text!r} is not like '2023/05/20 (Sat) 02:21'.") from error
