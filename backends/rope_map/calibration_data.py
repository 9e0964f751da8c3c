"""Generated conversations with questions, on which a model's addressing is calibrated.

Friends who tell each other about their lives (questions name them), and a user who talks to an assistant
(questions say "my"). Facts stand among small talk, told outright or as the answer to a question. All of it is
drawn with a seed from ``calibration.yaml``, which was written for this: nothing of a benchmark is in it.
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

SOURCE = Path(__file__).with_name("calibration.yaml")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
_FACTS = 30
_SESSION = 20
_IDLE = 24
# Pairs of small talk; those after them are remarks that neither memory nor the background has heard.
_BACKGROUND = 80


@dataclass(frozen=True, slots=True)
class Asked:
    """A message, and the place of the turn that answers it among the scene's turns; None if it needs no memory."""

    text: str
    answer: int | None


@dataclass(frozen=True, slots=True)
class Scene:
    """Some sessions of one user, and questions about them."""

    turns: tuple[Turn, ...]
    asked: tuple[Asked, ...]


def scenes(count: int, seed: int) -> Iterator[Scene]:
    """Yield conversations of some 150 turns with 120 questions and 24 remarks that need no memory, friends and users in turns."""
    material = _material()
    for number in range(count):
        yield _scene(material, random.Random(f"{seed} {number}"), friends=number % 2 == 0)  # noqa: S311


def background() -> list[str]:
    """Return turns about nothing in particular, what any memory is full of."""
    return [said for pair in _material()["small_talk"][:_BACKGROUND] for said in pair]


def _scene(material: dict[str, Any], rng: random.Random, *, friends: bool) -> Scene:
    names = rng.sample(material["names"], 2)
    said: list[tuple[int, str]] = []
    asked: list[Asked] = []
    for family in rng.sample(material["facts"], _FACTS):
        said += _chatter(material, rng)
        who = rng.randrange(2) if friends else 0
        values = _drawn(family, rng)
        said += _telling(family, values, rng, who)
        questions = _questions(family, values, names[who], friends=friends)
        asked += [Asked(text, len(said) - 1) for text in questions]
    known = {text for _, text in said}
    idle = [text for pair in material["small_talk"][_BACKGROUND:] for text in pair if text not in known]
    asked += [Asked(text, None) for text in rng.sample(idle, _IDLE)]
    return Scene(tuple(_turns(said, names, friends=friends)), tuple(asked))


def _turns(said: list[tuple[int, str]], names: list[str], *, friends: bool) -> Iterator[Turn]:
    for place, (who, text) in enumerate(said):
        yield Turn(
            seq=place + 1,
            id=f"{place:032x}",
            session=f"session {place // _SESSION}",
            role="user" if who == 0 else "assistant",
            text=text,
            created_at=LONG_AGO,
            speaker=names[who] if friends else None,
        )


def _drawn(family: dict[str, Any], rng: random.Random) -> dict[str, str]:
    return {slot: rng.choice(fillers) for slot, fillers in family["values"].items()}


def _telling(
    family: dict[str, Any], values: dict[str, str], rng: random.Random, who: int
) -> list[tuple[int, str]]:
    """Return the turns that tell a fact; the last of them holds it."""
    if rng.random() < 0.5:
        return [(who, rng.choice(family["say"]).format(**values))]
    question, answer = rng.choice(family["exchange"])
    return [(1 - who, question.format(**values)), (who, answer.format(**values))]


def _questions(family: dict[str, Any], values: dict[str, str], name: str, *, friends: bool) -> list[str]:
    """Return questions in words of their own, and questions in the words of what was told."""
    asked = [*family["ask_about"], *family["plain_about"]] if friends else [*family["ask"], *family["plain"]]
    return [text.format(who=name, **values) for text in asked]


def _chatter(material: dict[str, Any], rng: random.Random) -> list[tuple[int, str]]:
    """Return up to two pairs of turns that hold no fact."""
    first = rng.randrange(2)
    pairs = rng.sample(material["small_talk"], rng.randrange(3))
    return [(first ^ place, text) for pair in pairs for place, text in enumerate(pair)]


@cache
def _material() -> dict[str, Any]:
    import yaml

    material: dict[str, Any] = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return material
