"""Generated dialogues with questions, for the calibration of a model's heads.

Two kinds alternate: friends who tell each other about their lives (questions name them), and a user who talks to an
assistant (questions say "my"). Facts stand among small talk, as a statement or as the answer to a question. All of it is
drawn with a seed from ``calibration.yaml``, which was written for this: it holds nothing of a benchmark.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from memagent.backends.records import Turn
from memagent.backends.rope_map.tuning import Tuning

SOURCE = Path(__file__).with_name("calibration.yaml")
CREATED_AT = datetime(2020, 1, 1, tzinfo=UTC)
"""The time of every generated turn."""

# A generated line: which of the two speakers, 0 or 1, and the text.
_Line = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Question:
    """A message to the memory.

    Attributes:
        text: a question, or a remark that needs no memory.
        answer: place of the answering turn in its dialogue, from 0; None for a remark.
    """

    text: str
    answer: int | None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Some sessions of one user, and questions about them."""

    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]


def dialogues(tuning: Tuning) -> Iterator[Dialogue]:
    """Yield ``num_dialogues`` dialogues of some 150 turns with 120 questions and 24 remarks, alternating between the two kinds."""
    material = load_material()
    for number in range(tuning.num_dialogues):
        rng = random.Random(f"{tuning.seed} {number}")  # noqa: S311
        yield _dialogue(material, rng, tuning, between_friends=number % 2 == 0)


def small_talk(tuning: Tuning) -> list[str]:
    """Return the turns of the background: about nothing in particular, like most of any memory."""
    return [text for pair in load_material()["small_talk"][: tuning.background_pairs] for text in pair]


@cache
def load_material() -> dict[str, Any]:
    """Return what ``calibration.yaml`` holds: names, families of facts with their wordings, and small talk."""
    import yaml

    material: dict[str, Any] = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return material


def _dialogue(
    material: dict[str, Any], rng: random.Random, tuning: Tuning, *, between_friends: bool
) -> Dialogue:
    """Generate one dialogue: facts amid small talk, questions about them, and remarks that need no memory."""
    names = rng.sample(material["names"], 2)
    lines: list[_Line] = []
    questions: list[Question] = []
    for family in rng.sample(material["facts"], tuning.facts_per_dialogue):
        lines += _small_talk_lines(material, rng)
        speaker = rng.randrange(2) if between_friends else 0
        values = {slot: rng.choice(fillers) for slot, fillers in family["values"].items()}
        lines += _fact_lines(family, values, rng, speaker)
        name = names[speaker] if between_friends else None
        questions += [Question(text, len(lines) - 1) for text in _question_texts(family, values, name)]
    texts = {text for _, text in lines}
    unheard = material["small_talk"][tuning.background_pairs :]
    remarks = [text for pair in unheard for text in pair if text not in texts]
    questions += [Question(text, None) for text in rng.sample(remarks, tuning.remarks_per_dialogue)]
    turns = _turns(lines, names if between_friends else [None, None], tuning.turns_per_session)
    return Dialogue(tuple(turns), tuple(questions))


def _turns(lines: list[_Line], names: list[str] | list[None], turns_per_session: int) -> Iterator[Turn]:
    for place, (speaker, text) in enumerate(lines):
        yield Turn(
            seq=place + 1,
            id=f"{place:032x}",
            session=f"session {place // turns_per_session}",
            role="user" if speaker == 0 else "assistant",
            text=text,
            created_at=CREATED_AT,
            speaker=names[speaker],
        )


def _fact_lines(
    family: dict[str, Any], values: dict[str, str], rng: random.Random, speaker: int
) -> list[_Line]:
    """Return the turns that tell a fact; the last of them holds it."""
    if rng.random() < 0.5:
        return [(speaker, rng.choice(family["say"]).format(**values))]
    question, answer = rng.choice(family["exchange"])
    return [(1 - speaker, question.format(**values)), (speaker, answer.format(**values))]


def _question_texts(family: dict[str, Any], values: dict[str, str], name: str | None) -> list[str]:
    """Return questions in other words than the fact, and questions in its words; ``name`` is None for a user's own facts."""
    if name is None:
        return [text.format(**values) for text in (*family["ask"], *family["plain"])]
    return [text.format(who=name, **values) for text in (*family["ask_about"], *family["plain_about"])]


def _small_talk_lines(material: dict[str, Any], rng: random.Random) -> list[_Line]:
    """Return up to two pairs of turns that hold no fact."""
    first = rng.randrange(2)
    pairs = rng.sample(material["small_talk"], rng.randrange(3))
    return [(first ^ place, text) for pair in pairs for place, text in enumerate(pair)]
