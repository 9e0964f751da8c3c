"""From rows to results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memagent.agent.evaluation.datasets.locomo import load
from memagent.agent.evaluation.measure import measure
from memagent.agent.evaluation.report import summarise
from memagent.agent.evaluation.rows import JudgeRow, RankRow, Scores, SizeRow, WriteRow
from memagent.agent.evaluation.run import Plan, Run
from memagent.agent.home import Home
from memagent.agent.models.models import Models
from tests.agent.evaluation.datasets.files import locomo_file


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    plan = Plan(load(locomo_file(tmp_path)), {"in_memory": {}, "none": {}}, "hashing 1")
    with Run(plan, tmp_path / "runs") as run:
        yield run


def rank(method: str, item: str, recall: float | None, **values: Any) -> RankRow:
    scores = {k: recall or 0.0 for k in (1, 5, 10, 20)}
    fields: dict[str, Any] = {"category": "1", "answerable": True, "seconds": 0.001, "calls": 0}
    turn = None if recall is None else Scores(recall=scores, reciprocal_rank=recall / 2)
    return RankRow(method=method, case="c", item=item, turn=turn, **(fields | values))


def add_rank(run: Run, item: str, recall: float | None, **values: Any) -> None:
    """Add a question's row for every method, as a finished run has them."""
    for method in ("bm25", "none", "in_memory"):
        run.add(rank(method, item, recall, **values))


def judge(item: str, answerable: bool, abstained: bool, **values: Any) -> JudgeRow:
    return JudgeRow(
        method="in_memory",
        case="c",
        item=item,
        category="1",
        answerable=answerable,
        abstained=abstained,
        **values,
    )


def result(run: Run, method: str = "in_memory", level: str = "turn") -> dict[str, Any]:
    results = summarise(run, "1-4").fields()["results"]
    (row,) = [row for row in results if (row["backend"], row["level"]) == (method, level)]
    assert isinstance(row, dict)
    return row


def test_means_count_answerable_questions_with_evidence(run: Run) -> None:
    add_rank(run, "0", 1.0)
    add_rank(run, "1", 0.5, category="2")
    add_rank(run, "2", None)
    add_rank(run, "3", 0.0, answerable=False, category="5")
    add_rank(run, "4", 0.0)
    figures = result(run)
    assert (figures["questions"], figures["categories"]) == (3, "1-4")
    assert (figures["recall@1"], figures["recall@20"], figures["mrr"]) == (0.5, 0.5, 0.25)
    assert {name: (its["questions"], its["recall@10"]) for name, its in figures["by_category"].items()} == {
        "1": (2, 0.5),
        "2": (1, 0.5),
    }


def test_baselines_stand_first_then_the_reference_and_the_control(run: Run) -> None:
    summary = summarise(run, "1-4").fields()
    rows = [(row["level"], row["backend"]) for row in summary["results"]]
    assert [name for level, name in rows if level == "turn"] == ["chance", "bm25", "none", "in_memory"]
    assert [name for level, name in rows if level == "session"] == [
        "chance",
        "bm25_sessions",
        "bm25",
        "none",
        "in_memory",
    ]
    assert summary["manifest"] == run.manifest.model_dump()


def test_nothing_measured_gives_no_figures(run: Run) -> None:
    summary = summarise(run, "1-4").fields()
    assert summary["differences"] == []
    assert {row["recall@10"] for row in summary["results"]} == {None}
    assert result(run)["abstention"] is None
    assert set(result(run)["cost"].values()) == {None}


def test_differences_pair_questions(run: Run) -> None:
    for number in range(4):
        run.add(rank("bm25", str(number), 0.5))
        run.add(rank("none", str(3 - number), 0.0))
        run.add(rank("in_memory", str(3 - number), 1.0 if number == 0 else 0.5))
    figures = summarise(run, "1-4").fields()["differences"]
    assert [(one["backend"], one["against"], one["level"]) for one in figures] == [
        ("none", "bm25", "turn"),
        ("in_memory", "bm25", "turn"),
        ("in_memory", "none", "turn"),
    ]
    assert [one["difference"] for one in figures] == [-0.5, 0.125, 0.625]
    assert (figures[0]["low"], figures[0]["high"]) == (-0.5, -0.5)
    assert figures[1]["low"] == 0.0
    assert 0.125 < figures[1]["high"] <= 0.5


def test_abstention_counts_what_was_right(run: Run) -> None:
    run.add(judge("0", True, False))
    run.add(judge("1", True, True))
    run.add(judge("2", False, True))
    run.add(judge("3", False, True))
    run.add(judge("4", False, False))
    assert result(run)["abstention"] == {
        "unanswerable": 3,
        "abstained": 3,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "base_rate": 3 / 5,
    }


def test_abstention_without_any_has_no_precision(run: Run) -> None:
    run.add(judge("0", True, False))
    assert result(run)["abstention"] == {
        "unanswerable": 0,
        "abstained": 0,
        "precision": None,
        "recall": None,
        "base_rate": 0.0,
    }


def test_costs_are_weighted_by_turns(run: Run) -> None:
    run.add(WriteRow(method="in_memory", case="c", item="s1", turns=3, seconds=0.003, calls=6))
    run.add(WriteRow(method="in_memory", case="c", item="s2", turns=1, seconds=0.005, calls=0))
    run.add(SizeRow(method="in_memory", case="c", item="state", turns=4, bytes=100))
    for number, seconds in enumerate((0.001, 0.002, 0.009)):
        add_rank(run, str(number), 1.0, seconds=seconds, calls=number)
    cost = result(run)["cost"]
    assert cost["write_ms_per_turn"] == pytest.approx(2.0)
    assert cost["recall_ms_median"] == pytest.approx(2.0)
    assert 8.2 < cost["recall_ms_p95"] <= 9.0
    assert (cost["bytes_per_turn"], cost["model_calls_per_turn"], cost["model_calls_per_recall"]) == (
        25,
        1.5,
        1,
    )


def test_the_95th_percentile_is_no_longer_than_the_longest(run: Run) -> None:
    for number, seconds in enumerate((0.001, 0.002, 0.009)):
        add_rank(run, str(number), 1.0, seconds=seconds)
    assert result(run)["cost"]["recall_ms_p95"] <= 9.0 + 1e-9


def test_answers_are_averaged_over_those_that_were_asked_for(run: Run) -> None:
    run.add(judge("0", True, False, reply="x", f1=1.0))
    run.add(judge("1", True, False, reply="y", f1=0.5))
    run.add(judge("2", False, False))
    assert result(run)["answers"] == {"questions": 2, "token_f1": 0.75}
    assert "answers" not in result(run, "none")
    assert "cost" in result(run, "bm25")
    assert "cost" not in result(run, "chance")
    assert "cost" not in result(run, level="session")


def test_a_measured_run_is_summed_up(tmp_path: Path, home: Home, run: Run) -> None:
    plan = Plan(load(locomo_file(tmp_path)), {"in_memory": {}, "none": {}}, "hashing 1")
    for _ in measure(plan, run, Models.shared(home.models)):
        pass
    chance = result(run, "chance")
    # Three questions over 6 turns, one over 2; the third category has no evidence, the fifth no answer.
    assert chance["questions"] == 4
    assert chance["recall@1"] == pytest.approx((3 / 6 + 1 / 2) / 4)
    assert chance["mrr"] is None
    assert list(chance["by_category"]) == ["1", "2", "4"]
    assert chance["by_category"]["1"]["recall@1"] == pytest.approx(1 / 6)
    assert result(run, "none")["recall@20"] == 0.0
    assert result(run, "none")["abstention"]["recall"] == 1.0
    assert result(run, "in_memory", "session")["questions"] == 4
