"""Rows: scores of a ranking, and the way through JSON."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from memagent.agent.evaluation.rows import ROW, JudgeRow, RankRow, Row, Scores, SizeRow, WriteRow

SCORES = Scores(recall={1: 0.0, 5: 0.5, 10: 1.0, 20: 1.0}, reciprocal_rank=0.5)
ROWS: list[Row] = [
    RankRow(
        method="rag", case="c", item="0", category="1", answerable=True, turn=SCORES, seconds=0.1, calls=2
    ),
    RankRow(method="chance", case="c", item="0", category="1", answerable=False, session=SCORES),
    JudgeRow(
        method="rag", case="c", item="0", category="1", answerable=True, abstained=False, reply="ä\u2028"
    ),
    WriteRow(method="rag", case="c", item="monday", turns=3, seconds=0.2, calls=1),
    SizeRow(method="rag", case="c", item="state", bytes=100, turns=3),
]


def test_scores_of_a_ranking() -> None:
    assert Scores.of([7, 3, 9], frozenset({3, 4})) == Scores(
        recall={1: 0.0, 5: 0.5, 10: 0.5, 20: 0.5}, reciprocal_rank=0.5
    )
    assert Scores.of([7], frozenset()) is None


def test_scores_have_stable_names() -> None:
    assert SCORES.model_dump() == {
        "recall@1": 0.0,
        "recall@5": 0.5,
        "recall@10": 1.0,
        "recall@20": 1.0,
        "rr": 0.5,
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.kind)
def test_a_row_comes_back_from_json_as_it_was(row: Row) -> None:
    assert ROW.validate_python(json.loads(json.dumps(row.model_dump(exclude_none=True)))) == row


@pytest.mark.parametrize(
    "fields", [{}, {"kind": "smell"}, {"kind": "size"}, {**ROWS[-1].model_dump(), "colour": "red"}]
)
def test_other_fields_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ROW.validate_python(fields)
