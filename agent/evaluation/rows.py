"""Rows: the measurements of a benchmark run, as they are written to and read from its JSON lines."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_serializer, model_validator

from memagent.agent.evaluation.metrics import KS, recall_at, reciprocal_rank

Key = tuple[str, str, str, str]
_RECALL = "recall@"


class Scores(BaseModel):
    """How well one ranking finds the evidence of one question; higher is better.

    Attributes:
        recall: the share of the evidence among the first k, by k.
        reciprocal_rank: 1 / rank of the first evidence; None for an expectation over random orders.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recall: dict[int, float]
    reciprocal_rank: float | None = None

    @classmethod
    def of(cls, ranked: Sequence[Hashable], evidence: frozenset[Any]) -> Self | None:
        """Score a ranking, best first; None if there is no evidence to find."""
        if not evidence:
            return None
        recall = {k: recall_at(ranked, evidence, k) for k in KS}
        return cls(recall=recall, reciprocal_rank=reciprocal_rank(ranked, evidence))

    @model_validator(mode="before")
    @classmethod
    def _from_names(cls, value: Any) -> Any:
        """Read ``{"recall@1": ..., "rr": ...}``."""
        if not isinstance(value, Mapping) or "recall" in value:
            return value
        recall = {name.removeprefix(_RECALL): share for name, share in value.items() if name != "rr"}
        return {"recall": recall, "reciprocal_rank": value.get("rr")}

    @model_serializer
    def _by_names(self) -> dict[str, float]:
        rank = {} if self.reciprocal_rank is None else {"rr": self.reciprocal_rank}
        return {f"{_RECALL}{k}": share for k, share in self.recall.items()} | rank


class _Row(BaseModel):
    """Fields of every row.

    Attributes:
        kind: what was measured.
        method: the backend, or the baseline.
        case: the conversation.
        item: what of it: a question's id, a session's name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    method: str
    case: str
    item: str

    @property
    def key(self) -> Key:
        """What names the row: a run holds each key once."""
        return (self.kind, self.method, self.case, self.item)


class RankRow(_Row):
    """The ranking of one question, with abstention off.

    Attributes:
        category: the question's, as the benchmark names it.
        answerable: whether the conversation holds an answer.
        turn, session: scores at either level; None where the question has no evidence or the method no ranking.
        seconds: wall-clock time of the recall; None for a baseline.
        calls: calls of the embedder and passes of the language model; None for a baseline.
    """

    kind: Literal["rank"] = "rank"
    category: str
    answerable: bool
    turn: Scores | None = None
    session: Scores | None = None
    seconds: float | None = None
    calls: int | None = None


class JudgeRow(_Row):
    """The outcome of one question with abstention on.

    Attributes:
        abstained: whether nothing was recalled.
        reply: the model's answer, where one was asked for.
        f1: its token F1 against the accepted answers, 0 to 1.
    """

    kind: Literal["judge"] = "judge"
    category: str
    answerable: bool
    abstained: bool
    reply: str | None = None
    f1: float | None = None


class WriteRow(_Row):
    """The cost of remembering one session: turns, seconds, calls of models."""

    kind: Literal["write"] = "write"
    turns: int
    seconds: float
    calls: int


class SizeRow(_Row):
    """The size of one conversation's stored state: bytes, and how many turns it holds."""

    kind: Literal["size"] = "size"
    bytes: int
    turns: int


Row = Annotated[RankRow | JudgeRow | WriteRow | SizeRow, Field(discriminator="kind")]
ROW: TypeAdapter[Row] = TypeAdapter(Row)
