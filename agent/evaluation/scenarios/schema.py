"""What a scenario file may say.

    name: a move is remembered
    about: The newer of two statements is recalled.
    steps:
      - session: january
        say:
          - I live in Lisbon.
          - assistant: A lovely city.
      - distractors: {count: 200, seed: 7}
      - wait: 3 weeks
      - session: february
        say: I moved to Porto.
      - ask: Which city did I move to?
        expect:
          recalled: {contains: Porto, within: 2}
          reply: {contains: Porto, lacks: Lisbon}

Every value is read as text and converted to the type of its field, so ``contains: no`` and
``contains: 0042`` mean the letters that stand there.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic.json_schema import JsonSchemaValue

from memagent.agent.evaluation.scenarios.expect import Expectation
from memagent.agent.evaluation.scenarios.values import (
    Duration,
    Name,
    Part,
    Role,
    Seed,
    Text,
    Time,
    Word,
    Words,
    listed,
)
from memagent.agent.journal.records import ROLES


class Said(Part):
    """One turn: a bare text is the user's; ``{assistant: text}`` is another role's.

    Attributes:
        speaker: a name beside the role, for conversations of several people.
        at: when, if the scenario's clock is not what is wanted.
    """

    role: Role = "user"
    text: Text
    speaker: Name | None = None
    at: Time | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if isinstance(value, str):
            return {"text": value}
        if not isinstance(value, dict) or "text" in value:
            return value
        roles = [role for role in ROLES if role in value]
        if len(roles) != 1:
            raise ValueError(f"expected a text, or one of {', '.join(ROLES)} with what was said")
        return {"role": roles[0], "text": value[roles[0]]} | {
            key: part for key, part in value.items() if key != roles[0]
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        names = (*ROLES, "speaker", "at")
        words = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
        return {"anyOf": [{"type": "string"}, {**words, "additionalProperties": False, "minProperties": 1}]}


def _forgetting(value: object) -> object:
    return {"matching": value} if isinstance(value, str) else value


class _Step(Part):
    """``user``: whose memory; by default the scenario's user."""

    user: Name | None = None


class Say(_Step):
    """Turns told in a session, as they stand here; no model answers them."""

    session: Name
    say: Annotated[
        tuple[Said, ...],
        Field(min_length=1),
        BeforeValidator(listed, json_schema_input_type=Said | list[Said]),
    ]


class DistractorSpec(Part):
    """Facts that are beside the point.

    Attributes:
        count: how many.
        seed: which.
        kind: ``others`` (facts about other people and places), ``daily`` (the user's own days) or ``mixed``.
        sessions: over how many sessions they are spread.
    """

    count: Annotated[int, Field(ge=1, le=100_000)]
    seed: Seed = 0
    kind: Literal["others", "daily", "mixed"] = "mixed"
    sessions: Annotated[int, Field(ge=1, le=1000)] = 1


class Distract(_Step):
    """Generated facts, told over some sessions."""

    distractors: DistractorSpec


class Wait(Part):
    """Time passes on the scenario's clock: ``3 weeks``; a month is 30 days, a year 365."""

    wait: Duration


class ForgetSpec(Part):
    """Which turns: those that contain ``matching`` (in any case), or a whole ``session``."""

    matching: Word | None = None
    session: Name | None = None

    @model_validator(mode="after")
    def _one(self) -> ForgetSpec:
        if (self.matching is None) == (self.session is None):
            raise ValueError("expected exactly one of matching and session")
        return self


class Forget(_Step):
    """Turns are forgotten for good; that none fits is an error."""

    forget: Annotated[ForgetSpec, BeforeValidator(_forgetting, json_schema_input_type=Word | ForgetSpec)]


class Do(_Step):
    """Housekeeping: consolidate the memory, or rebuild it from the journal."""

    do: Literal["consolidate", "rebuild"]


class Ask(_Step):
    """A probe: a question and what must hold. It leaves no trace in journal or memory.

    Attributes:
        session: whose recent turns the model sees; by default a new one.
        limit: most recollections asked for.
    """

    ask: Text
    session: Name | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 5
    expect: Expectation


STEPS: tuple[type[Part], ...] = (Say, Ask, Distract, Wait, Forget, Do)
_ACTIONS = ("say", "ask", "distractors", "wait", "forget", "do")


def _action(value: Any) -> str | None:
    """The tag of a step, by the one action it names; no field can look like a tag."""
    names = value if isinstance(value, dict) else getattr(value, "model_fields_set", ())
    found = [action for action in _ACTIONS if action in names]
    return f"<{found[0]}>" if len(found) == 1 else None


Step = Annotated[
    Annotated[Say, Tag("<say>")]
    | Annotated[Ask, Tag("<ask>")]
    | Annotated[Distract, Tag("<distractors>")]
    | Annotated[Wait, Tag("<wait>")]
    | Annotated[Forget, Tag("<forget>")]
    | Annotated[Do, Tag("<do>")],
    Discriminator(
        _action,
        custom_error_type="step",
        custom_error_message=f"expected a step with exactly one of {', '.join(_ACTIONS)}",
    ),
]


class Scenario(Part):
    """A story of several sessions with questions.

    Attributes:
        name: unique in its file.
        about: one sentence: what it shows.
        tags: for ``--tag``.
        backends: the only ones it is meant for; by default all.
        user: whose memory, where a step does not say.
        start: the clock at the first step. Turns are a minute apart; a step that tells something begins
            a day after the last one that did.
    """

    name: Name
    about: str = ""
    tags: Words = ()
    backends: Words = ()
    user: Name = "ana"
    start: Time = datetime(2026, 1, 5, 9, tzinfo=UTC)
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _shows_something(self) -> Scenario:
        if not any(isinstance(step, Ask) for step in self.steps):
            raise ValueError("a scenario without an `ask` shows nothing")
        told = [
            (step.user or self.user, step.distractors.seed)
            for step in self.steps
            if isinstance(step, Distract)
        ]
        if len(set(told)) < len(told):
            raise ValueError("each `distractors` step needs a seed of its own, or it tells the same again")
        return self
