"""The format of a scenario file.

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
    Role,
    ScenarioModel,
    Seed,
    Text,
    Time,
    Word,
    Words,
    as_list,
)
from memagent.agent.journal.records import ROLES


class TurnSpec(ScenarioModel):
    """One turn: a bare text is the user's; ``{assistant: text}`` is another role's.

    Attributes:
        speaker: a name beside the role, for conversations of several people.
        at: when; by default the scenario's clock.
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
            raise ValueError(f"expected a text, or one of {', '.join(ROLES)} with a text")
        return {"role": roles[0], "text": value[roles[0]]} | {
            key: part for key, part in value.items() if key != roles[0]
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        names = (*ROLES, "speaker", "at")
        words = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
        return {"anyOf": [{"type": "string"}, {**words, "additionalProperties": False, "minProperties": 1}]}


def _forget_spec(value: object) -> object:
    """Read a bare text as what the turns contain."""
    return {"matching": value} if isinstance(value, str) else value


class _Step(ScenarioModel):
    """A step of one user; by default the scenario's user."""

    user: Name | None = None


class SayStep(_Step):
    """Turns of a session, as they are written here; no model answers them."""

    session: Name
    say: Annotated[
        tuple[TurnSpec, ...],
        Field(min_length=1),
        BeforeValidator(as_list, json_schema_input_type=TurnSpec | list[TurnSpec]),
    ]


class DistractorSpec(ScenarioModel):
    """Generated facts that no question is about.

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


class DistractorStep(_Step):
    """Generated facts are added, spread over some sessions."""

    distractors: DistractorSpec


class WaitStep(ScenarioModel):
    """Time passes on the scenario's clock: ``3 weeks``; a month is 30 days, a year 365."""

    wait: Duration


class ForgetSpec(ScenarioModel):
    """Which turns: those that contain ``matching`` (in any case), or a whole ``session``."""

    matching: Word | None = None
    session: Name | None = None

    @model_validator(mode="after")
    def _has_single_selector(self) -> ForgetSpec:
        if (self.matching is None) == (self.session is None):
            raise ValueError("expected exactly one of matching and session")
        return self


class ForgetStep(_Step):
    """Turns are forgotten; it is an error if none matches."""

    forget: Annotated[ForgetSpec, BeforeValidator(_forget_spec, json_schema_input_type=Word | ForgetSpec)]


class MaintenanceStep(_Step):
    """Maintenance: consolidate the memory, or rebuild it from the journal."""

    do: Literal["consolidate", "rebuild"]


class AskStep(_Step):
    """A probe: a question and what must hold. Neither journal nor memory keeps it.

    Attributes:
        session: whose recent turns the model sees; by default a new one.
        limit: most recollections returned.
    """

    ask: Text
    session: Name | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 5
    expect: Expectation


STEPS: tuple[type[ScenarioModel], ...] = (
    SayStep,
    AskStep,
    DistractorStep,
    WaitStep,
    ForgetStep,
    MaintenanceStep,
)
_ACTIONS = ("say", "ask", "distractors", "wait", "forget", "do")


def _action(value: Any) -> str | None:
    """Return the tag of a step, by the one action it names; no field can look like a tag."""
    names = value if isinstance(value, dict) else getattr(value, "model_fields_set", ())
    actions = [action for action in _ACTIONS if action in names]
    return f"<{actions[0]}>" if len(actions) == 1 else None


Step = Annotated[
    Annotated[SayStep, Tag("<say>")]
    | Annotated[AskStep, Tag("<ask>")]
    | Annotated[DistractorStep, Tag("<distractors>")]
    | Annotated[WaitStep, Tag("<wait>")]
    | Annotated[ForgetStep, Tag("<forget>")]
    | Annotated[MaintenanceStep, Tag("<do>")],
    Discriminator(
        _action,
        custom_error_type="step",
        custom_error_message=f"expected a step with exactly one of {', '.join(_ACTIONS)}",
    ),
]


class Scenario(ScenarioModel):
    """A dialogue of several sessions with questions.

    Attributes:
        name: unique in its file.
        about: what it shows, in one sentence.
        tags: for ``--tag``.
        backends: the only ones it is meant for; by default all.
        user: whose memory, where a step does not say.
        start: the clock at the first step. Turns are a minute apart; a step that adds turns begins
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
    def _has_probes(self) -> Scenario:
        if not any(isinstance(step, AskStep) for step in self.steps):
            raise ValueError("a scenario without an `ask` shows nothing")
        seeds = [
            (step.user or self.user, step.distractors.seed)
            for step in self.steps
            if isinstance(step, DistractorStep)
        ]
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                "each `distractors` step needs a seed of its own, or it adds the same facts again"
            )
        return self
