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

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue

from memagent.agent.journal.records import ROLES, check_name, check_text
from memagent.backends.errors import InputError

_UNITS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=30),
    "year": timedelta(days=365),
}
_DURATION = re.compile(rf"(\d{{1,5}}) +({'|'.join(_UNITS)})s?")


def _name(value: str) -> str:
    return _checked(value, lambda: check_name("name", value))


def _text(value: str) -> str:
    return _checked(value, lambda: check_text(value))


def _checked(value: str, check: Any) -> str:
    try:
        check()
    except InputError as error:
        raise ValueError(str(error)) from error
    return value


def _duration(value: object) -> object:
    if not isinstance(value, str) or value.startswith("P"):  # ISO 8601, as pydantic itself writes it
        return value
    found = _DURATION.fullmatch(value.strip())
    if found is None:
        raise ValueError(
            f"expected a number and a unit ({', '.join(_UNITS)}), as in '3 weeks', not {value!r}"
        )
    return int(found[1]) * _UNITS[found[2]]


def _zoned(value: datetime) -> datetime:
    """Take a time without a zone as UTC."""
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _listed(value: object) -> object:
    return value if isinstance(value, (list, tuple)) else [value]


def _matcher(value: object) -> object:
    return {"contains": value} if isinstance(value, str) else value


def _reply(value: object) -> object:
    return {"contains": value} if isinstance(value, (str, list)) else value


def _forgetting(value: object) -> object:
    return {"matching": value} if isinstance(value, str) else value


def _time(value: object) -> object:
    if isinstance(value, str) and value.strip().isdigit():  # pydantic would take it for seconds since 1970
        raise ValueError(f"expected a date and time, as in '2026-03-01T09:00', not {value!r}")
    return value


Time = Annotated[datetime, BeforeValidator(_time, json_schema_input_type=str), AfterValidator(_zoned)]
Name = Annotated[str, BeforeValidator(_name)]
Text = Annotated[str, BeforeValidator(_text)]
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Words = Annotated[
    tuple[Word, ...], Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=Word | list[Word])
]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel):
    """Base of everything in a scenario: unknown fields are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Filled = TypeVar("Filled", bound=Part)


class Said(Part):
    """One turn: a bare text is the user's; ``{assistant: text}`` is another role's.

    Attributes:
        speaker: a name beside the role, for conversations of several people.
        at: when, if the scenario's clock is not what is wanted.
    """

    role: Literal["user", "assistant", "system", "tool"] = "user"
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


class Matcher(Part):
    """Which recollection is meant; a bare text is what it contains.

    Attributes:
        contains: words it holds, all of them; whole words, in any case.
        within: its rank at most, 1 being the best; by default anywhere among those returned.
        session, role, speaker, on: its provenance; ``on`` is a date (UTC).
    """

    contains: Words
    within: Annotated[int, Field(ge=1)] | None = None
    session: Name | None = None
    role: Literal["user", "assistant", "system", "tool"] | None = None
    speaker: Name | None = None
    on: date | None = None


OneMatcher = Annotated[Matcher, BeforeValidator(_matcher, json_schema_input_type=Word | Matcher)]
Matchers = Annotated[
    tuple[OneMatcher, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=OneMatcher | list[OneMatcher]),
]


class ReplyExpectation(Part):
    """What the model's answer must be like; a bare text is what it contains.

    Attributes:
        contains: every one of these; whole words, in any case.
        any_of: at least one of these.
        lacks: none of these.
        matches: a regular expression found somewhere in it, in any case.
    """

    contains: Words = ()
    any_of: Words = ()
    lacks: Words = ()
    matches: str | None = None

    @field_validator("matches")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _says_something(self) -> ReplyExpectation:
        return _with_content(self)


class Expectation(Part):
    """What must hold after a question.

    Attributes:
        reply: of the model's answer; without it no model is asked.
        recalled: each of these is among the recollections.
        not_recalled: none of these is.
        order: texts; the recollection that first holds one stands above the first that holds the next.
        nothing: true if memory must abstain: no recollection at all.
        at_most: the most recollections allowed.
        recall_seconds, reply_seconds: longest time allowed, for the recall and for the whole answer.
    """

    reply: (
        Annotated[
            ReplyExpectation,
            BeforeValidator(_reply, json_schema_input_type=Word | list[Word] | ReplyExpectation),
        ]
        | None
    ) = None
    recalled: Matchers = ()
    not_recalled: Matchers = ()
    order: Annotated[tuple[Word, ...], Field(min_length=2)] = ()
    nothing: bool = False
    at_most: Annotated[int, Field(ge=0)] | None = None
    recall_seconds: Seconds | None = None
    reply_seconds: Seconds | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Expectation:
        if self.nothing and (self.recalled or self.order):
            raise ValueError("`nothing: true` and something to be recalled cannot both hold")
        if self.reply_seconds is not None and self.reply is None:
            raise ValueError("`reply_seconds` needs a `reply`: without one no model is asked")
        return _with_content(self)

    @property
    def needs_memory(self) -> bool:
        """Whether an agent that remembers nothing must fail: something has to be recalled."""
        return bool(self.recalled or self.order)

    @property
    def judges_recall(self) -> bool:
        """Whether anything is expected of the recollections themselves."""
        return bool(self.needs_memory or self.not_recalled or self.nothing or self.recall_seconds) or (
            self.at_most is not None
        )


class _Step(Part):
    """``user``: whose memory; by default the scenario's user."""

    user: Name | None = None


class Say(_Step):
    """Turns told in a session, as they stand here; no model answers them."""

    session: Name
    say: Annotated[
        tuple[Said, ...],
        Field(min_length=1),
        BeforeValidator(_listed, json_schema_input_type=Said | list[Said]),
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
    seed: int = 0
    kind: Literal["others", "daily", "mixed"] = "mixed"
    sessions: Annotated[int, Field(ge=1, le=1000)] = 1


class Distract(_Step):
    """Generated facts, told over some sessions."""

    distractors: DistractorSpec


class Wait(Part):
    """Time passes on the scenario's clock: ``3 weeks``; a month is 30 days, a year 365."""

    wait: Annotated[timedelta, BeforeValidator(_duration, json_schema_input_type=str)]


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


def _with_content(part: Filled) -> Filled:
    given = (getattr(part, name) for name in type(part).model_fields)
    if all(value is None or value is False or value == () for value in given):
        raise ValueError(f"expected at least one of {', '.join(type(part).model_fields)}")
    return part
