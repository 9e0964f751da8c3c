"""What must hold after a question: for the recollections, the reply, and the time both took."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from memagent.agent.evaluation.scenarios.patterns import check_pattern
from memagent.agent.evaluation.scenarios.values import (
    Day,
    Name,
    Role,
    ScenarioModel,
    Seconds,
    Word,
    Words,
    as_list,
)

Model = TypeVar("Model", bound=ScenarioModel)


def _matcher(value: object) -> object:
    """Read a bare text as what a recollection contains."""
    return {"contains": value} if isinstance(value, str) else value


def _reply(value: object) -> object:
    """Read a bare text or a list as what the reply contains."""
    return {"contains": value} if isinstance(value, (str, list)) else value


def _require_content(model: Model) -> Model:
    """Refuse an expectation in which nothing is set."""
    names = type(model).model_fields
    values = (getattr(model, name) for name in names)
    if all(value is None or value is False or value == () for value in values):
        raise ValueError(f"expected at least one of {', '.join(names)}")
    return model


class Matcher(ScenarioModel):
    """Which recollection is meant; a bare text is what it contains.

    Attributes:
        contains: words it contains, all of them; whole words, in any case.
        within: its rank at most, 1 being the best; by default anywhere among those returned.
        session, role, speaker, on: its provenance; ``on`` is a date (UTC).
        superseded: whether it must be marked as superseded by a newer one; by default either.
    """

    contains: Words
    within: Annotated[int, Field(ge=1)] | None = None
    session: Name | None = None
    role: Role | None = None
    speaker: Name | None = None
    on: Day | None = None
    superseded: bool | None = None


MatcherOrText = Annotated[Matcher, BeforeValidator(_matcher, json_schema_input_type=Word | Matcher)]
Matchers = Annotated[
    tuple[MatcherOrText, ...],
    Field(min_length=1),
    BeforeValidator(as_list, json_schema_input_type=MatcherOrText | list[MatcherOrText]),
]


class ReplyExpectation(ScenarioModel):
    """What must hold for the model's answer; a bare text is what it contains.

    Attributes:
        contains: every one of these; whole words, in any case.
        any_of: at least one of these.
        lacks: none of these.
        matches: a regular expression (of the package ``regex``) that matches somewhere in it, in any case; a search of
            more than a second fails.
    """

    contains: Words = ()
    any_of: Words = ()
    lacks: Words = ()
    matches: str | None = None

    @field_validator("matches")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        check_pattern(value or "")
        return value

    @model_validator(mode="after")
    def _has_content(self) -> ReplyExpectation:
        return _require_content(self)


class Expectation(ScenarioModel):
    """What must hold after a question.

    Attributes:
        reply: for the model's answer; without it no model answers.
        recalled: each of these is among the recollections.
        not_recalled: none of these is among them.
        order: texts; the recollection that first holds one stands above the first that holds the next.
        nothing: true if memory must abstain: no recollection at all.
        at_most: the most recollections allowed.
        recall_seconds, reply_seconds: most seconds for the recall, and for the whole answer.
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
    def _is_consistent(self) -> Expectation:
        if self.nothing and (self.recalled or self.order):
            raise ValueError("`nothing: true` and something to be recalled cannot both hold")
        if self.reply_seconds is not None and self.reply is None:
            raise ValueError("`reply_seconds` needs a `reply`: without it no model answers")
        return _require_content(self)

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
