"""LoCoMo in its official format (Maharana et al., arXiv 2402.17753; snap-research/locomo).

A turn's text is what was said plus the caption of its image. Evidence ids are cut out of whatever
stands there (``"D1:3; D2:4"``, ``"D9:1 D4:4 D4:6"``), and those that name no turn are dropped. Category
ids: 1 multi-hop, 2 temporal, 3 open-domain inference, 4 single-hop, 5 adversarial: no answer exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from memagent.agent.evaluation.datasets.dataset import Case, Dataset, Question, open_dataset, validated
from memagent.agent.journal.records import NewTurn
from memagent.backends.errors import InputError

_ADVERSARIAL = 5
_SESSION = re.compile(r"session_(\d+)")
_EVIDENCE = re.compile(r"D\d+:\d+")
_DATE = "%I:%M %p on %d %B, %Y"


class _Turn(BaseModel):
    speaker: str
    dia_id: str
    text: str
    blip_caption: str | None = None


class _Asked(BaseModel):
    question: str
    category: int = Field(ge=1, le=5)
    evidence: list[str] = []
    answer: str | int | float | None = None
    adversarial_answer: str | int | float | None = None


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore")

    sample_id: str
    conversation: dict[str, Any]
    qa: list[_Asked]


def load(path: Path) -> Dataset:
    """Open a LoCoMo file.

    Raises:
        InputError: see ``open_dataset``.
    """
    return open_dataset("locomo", path, "1-4", _parse)


def _parse(raw: Any, where: str) -> Case:
    record = validated(_Record, raw, where)
    where = f"{where} ({record.sample_id})"
    sessions: list[tuple[NewTurn, ...]] = []
    places: dict[str, int] = {}
    session_of: dict[str, str] = {}
    for name in _session_names(record.conversation):
        turns = []
        for said, turn in _turns(record.conversation, name, where):
            if said in places:
                raise InputError(f"{where}: the dialogue id {said} is there twice.")
            places[said] = len(places)
            session_of[said] = name
            turns.append(turn)
        if turns:
            sessions.append(tuple(turns))
    questions = []
    for number, asked in enumerate(record.qa):
        evidence = [one for one in _EVIDENCE.findall(" ".join(asked.evidence)) if one in places]
        questions.append(
            Question(
                id=str(number),
                text=asked.question,
                category=str(asked.category),
                answerable=asked.category != _ADVERSARIAL,
                turns=frozenset(places[one] for one in evidence),
                sessions=frozenset(session_of[one] for one in evidence),
                answers=() if asked.answer is None else (str(asked.answer),),
            )
        )
    return Case(record.sample_id, tuple(sessions), tuple(questions))


def _session_names(conversation: dict[str, Any]) -> list[str]:
    found = [match for key in conversation if (match := _SESSION.fullmatch(key))]
    return [match[0] for match in sorted(found, key=lambda match: int(match[1]))]


def _turns(conversation: dict[str, Any], name: str, where: str) -> Iterator[tuple[str, NewTurn]]:
    """Yield a session's turns with their dialogue ids; the first speaker is the user."""
    try:
        begun = datetime.strptime(conversation[f"{name}_date_time"], _DATE).replace(tzinfo=UTC)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{where}: {name}_date_time is missing or not like '1:56 pm on 8 May, 2023': {error}."
        ) from error
    if not isinstance(conversation[name], list):
        raise InputError(f"{where}: {name} is not a list of turns.")
    for number, raw in enumerate(conversation[name]):
        turn = validated(_Turn, raw, f"{where}: {name}[{number}]")
        text = f"{turn.text} [{turn.blip_caption}]" if turn.blip_caption else turn.text
        role = "user" if turn.speaker == conversation.get("speaker_a") else "assistant"
        text = text.replace("\0", "")
        if text.strip():
            yield turn.dia_id, NewTurn(name, role, text, speaker=turn.speaker, created_at=begun)
