"""Measuring: the same questions for all, folding, and going on after a stop at any point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from memagent.agent.evaluation.baselines import CHANCE, SESSION_BM25
from memagent.agent.evaluation.datasets.locomo import load
from memagent.agent.evaluation.measure import count_steps, measure, selected_questions
from memagent.agent.evaluation.rows import JudgeRow, RankRow, Row, SizeRow, WriteRow
from memagent.agent.evaluation.run import REFERENCE, Plan, Run
from memagent.agent.home import Home
from memagent.agent.models.models import Models
from memagent.backends import registry
from memagent.backends.in_memory import InMemory
from memagent.backends.records import Hit, Turn, WriteResult
from tests.agent.evaluation.datasets.files import LOCOMO, locomo_file, write

Kind = TypeVar("Kind", bound=Row)


@pytest.fixture
def models(home: Home) -> Models:
    return Models.shared(home.models)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    backends: Mapping[str, Mapping[str, str]] = {"none": {}, "in_memory": {}}
    return Plan(load(locomo_file(tmp_path)), backends, "hashing 1", model="echo")


def without(rows: Sequence[Row], *names: str) -> list[dict[str, Any]]:
    return [row.model_dump(exclude=set(names)) for row in rows]


def measured(plan: Plan, models: Models, runs: Path) -> list[Row]:
    with Run(plan, runs) as run:
        for _ in measure(plan, run, models):
            pass
        return run.rows


def turn_scores(row: RankRow) -> dict[str, float]:
    assert row.turn is not None
    return row.turn.model_dump()


def session_scores(row: RankRow) -> dict[str, float]:
    assert row.session is not None
    return row.session.model_dump()


def of(rows: Sequence[Row], kind: type[Kind], method: str) -> dict[tuple[str, str], Kind]:
    wanted = [row for row in rows if isinstance(row, kind) and row.method == method]
    keyed: dict[tuple[str, str], Kind] = {(row.case, row.item): row for row in wanted}
    assert len(keyed) == len(wanted)
    return keyed


def test_all_methods_are_asked_the_same_questions(tmp_path: Path, plan: Plan, models: Models) -> None:
    rows = measured(plan, models, tmp_path / "runs")
    for method in (CHANCE, SESSION_BM25, REFERENCE, "none", "in_memory"):
        assert tuple(of(rows, RankRow, method)) == plan.dataset.questions
    for method in (REFERENCE, "none", "in_memory"):
        assert tuple(of(rows, JudgeRow, method)) == plan.dataset.questions
        assert {key: row.turns for key, row in of(rows, WriteRow, method).items()} == {
            ("conv-1", "session_1"): 3,
            ("conv-1", "session_2"): 2,
            ("conv-1", "session_10"): 1,
            ("conv-2", "session_1"): 2,
        }
        assert list(of(rows, SizeRow, method)) == [("conv-1", "state"), ("conv-2", "state")]


def test_as_many_steps_are_made_as_announced(tmp_path: Path, plan: Plan, models: Models) -> None:
    for one in (plan, replace(plan, sample=2)):
        with Run(one, tmp_path / "runs") as run:
            assert sum(1 for _ in measure(one, run, models)) == count_steps(one)
            assert sum(1 for _ in measure(one, run, models)) == count_steps(one)


def test_rankings_are_what_the_memory_recalled(tmp_path: Path, plan: Plan, models: Models) -> None:
    rows = measured(plan, models, tmp_path / "runs")
    ranked = of(rows, RankRow, "in_memory")
    called = {"recall@1": 1.0, "recall@5": 1.0, "recall@10": 1.0, "recall@20": 1.0, "rr": 1.0}
    assert turn_scores(ranked["conv-1", "0"]) == called
    assert session_scores(ranked["conv-1", "0"]) == called
    shared = turn_scores(ranked["conv-1", "1"])  # three turns share one of the question's words each
    assert (shared["recall@1"], shared["recall@5"], shared["rr"]) == (1 / 3, 1.0, 1.0)
    assert (ranked["conv-1", "3"].turn, ranked["conv-1", "3"].session) == (None, None)
    assert ranked["conv-1", "4"].turn is not None  # a row has its evidence; reports leave it out
    nothing = of(rows, RankRow, "none")["conv-1", "0"]
    assert set(turn_scores(nothing).values()) == {0.0}


def test_chance_is_k_of_the_turns_and_of_the_sessions(tmp_path: Path, plan: Plan, models: Models) -> None:
    row = of(measured(plan, models, tmp_path / "runs"), RankRow, CHANCE)["conv-1", "0"]
    assert turn_scores(row) == {"recall@1": 1 / 6, "recall@5": 5 / 6, "recall@10": 1.0, "recall@20": 1.0}
    assert session_scores(row) == {"recall@1": 1 / 3, "recall@5": 1.0, "recall@10": 1.0, "recall@20": 1.0}


def test_the_reference_is_measured_once_whether_asked_for_or_not(
    tmp_path: Path, plan: Plan, models: Models
) -> None:
    beside = replace(plan, backends={"none": {}})
    asked_for = replace(plan, backends={"none": {}, REFERENCE: {"threshold": "1"}})
    assert list(beside.measured) == list(asked_for.measured) == [REFERENCE, "none"]
    assert asked_for.measured[REFERENCE] == {"threshold": "1"}
    rows = [measured(each, models, tmp_path / "runs") for each in (beside, asked_for)]
    ours, theirs = (without(list(of(some, RankRow, REFERENCE).values()), "seconds") for some in rows)
    assert ours == theirs


def test_the_session_baseline_has_no_ranking_of_turns(tmp_path: Path, plan: Plan, models: Models) -> None:
    row = of(measured(plan, models, tmp_path / "runs"), RankRow, SESSION_BM25)["conv-1", "0"]
    assert row.turn is None
    assert session_scores(row)["rr"] == 1.0


def test_abstention_is_judged_with_it_on_and_ranking_with_it_off(
    tmp_path: Path, plan: Plan, models: Models
) -> None:
    strict = replace(plan, backends={"in_memory": {"threshold": "0.9"}})
    rows = measured(strict, models, tmp_path / "runs")
    assert turn_scores(of(rows, RankRow, "in_memory")["conv-1", "1"])["recall@5"] == 1.0
    judged = of(rows, JudgeRow, "in_memory")
    assert judged["conv-1", "1"].abstained
    assert judged["conv-1", "4"].abstained
    assert not judged["conv-1", "4"].answerable
    lenient = of(measured(plan, models, tmp_path / "runs"), JudgeRow, "in_memory")
    assert not lenient["conv-1", "0"].abstained
    assert all(row.abstained for row in of(measured(plan, models, tmp_path / "n"), JudgeRow, "none").values())


def test_a_sample_is_drawn_by_the_seed(plan: Plan) -> None:
    all_questions = frozenset(plan.dataset.questions)
    assert (
        selected_questions(plan)
        == selected_questions(replace(plan, sample=6))
        == selected_questions(replace(plan, sample=99))
        == all_questions
    )
    samples = {selected_questions(replace(plan, sample=3, seed=seed)) for seed in range(8)}
    assert all(len(sample) == 3 and sample < all_questions for sample in samples)
    assert len(samples) > 1
    assert selected_questions(replace(plan, sample=3, seed=4)) == selected_questions(
        replace(plan, sample=3, seed=4)
    )


def test_only_the_sample_is_measured(tmp_path: Path, plan: Plan, models: Models) -> None:
    sampled = replace(plan, sample=2)
    rows = measured(sampled, models, tmp_path / "runs")
    for method in (CHANCE, SESSION_BM25, REFERENCE, "none", "in_memory"):
        assert of(rows, RankRow, method).keys() == selected_questions(sampled)


def test_answers_are_scored_where_there_is_one(tmp_path: Path, plan: Plan, models: Models) -> None:
    rows = measured(replace(plan, answers=True), models, tmp_path / "runs")
    judged = of(rows, JudgeRow, "in_memory")
    assert "Biscuit" in (judged["conv-1", "0"].reply or "")
    assert 0 < (judged["conv-1", "0"].f1 or 0) <= 1
    assert judged["conv-1", "4"].f1 is None
    assert sum(row.f1 is not None for row in judged.values()) == 5
    assert all(row.reply is None for row in of(rows, JudgeRow, REFERENCE).values())


def test_rag_counts_its_calls_and_weighs_something(tmp_path: Path, plan: Plan, models: Models) -> None:
    rows = measured(replace(plan, backends={"rag": {}}), models, tmp_path / "runs")
    assert all(row.calls >= 1 for row in of(rows, WriteRow, "rag").values())
    assert all((row.calls or 0) >= 1 for row in of(rows, RankRow, "rag").values())
    assert all(row.bytes > 0 for row in of(rows, SizeRow, "rag").values())
    assert turn_scores(of(rows, RankRow, "rag")["conv-1", "0"])["recall@5"] == 1.0


# stand-ins for a memory


@dataclass(frozen=True)
class PlainConfig:
    """No abstain among the settings."""


class Folding(InMemory):
    """Recalls recollections of several turns, and keeps every turn and query it was handed."""

    name: ClassVar[str] = "folding"
    Config: ClassVar[Any] = PlainConfig
    handed: ClassVar[list[str]] = []

    def __init__(self, config: Any, resources: Any) -> None:
        self.config = config
        self.turns = {}

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        self.handed.extend(turn.text for turn in turns)
        return super().remember(turns)

    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        self.handed.append(query)
        groups = [seqs for seqs in ((4, 5), (2, 5, 1), (6, 3)) if all(seq in self.turns for seq in seqs)]
        return [Hit(seqs, 1.0, "A stand-in.", text="…") for seqs in groups][:limit]


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> type[Folding]:
    get = registry.get
    monkeypatch.setattr(registry, "get", lambda name: Folding if name == "folding" else get(name))
    monkeypatch.setattr(Folding, "handed", [])
    return Folding


def test_a_recollection_of_several_turns_takes_several_places(
    tmp_path: Path, plan: Plan, models: Models, folding: type[Folding]
) -> None:
    """Recalled: turns 4 5, 2 (5) 1, 6 3; so 4 5 2 1 6 3, in session_2 2 1 1 10 1."""
    rows = measured(replace(plan, backends={"folding": {}}), models, tmp_path / "runs")
    ranked = of(rows, RankRow, "folding")
    first = ranked["conv-1", "0"]  # evidence: turn 1, place 4
    assert (turn_scores(first)["rr"], turn_scores(first)["recall@5"]) == (1 / 4, 1.0)
    assert session_scores(first)["rr"] == 1 / 2
    shared = ranked["conv-1", "1"]  # evidence: turns 1, 5 and 6, places 4, 2 and 5
    turns = turn_scores(shared)
    assert (turns["rr"], turns["recall@1"], turns["recall@5"]) == (1 / 2, 0.0, 1.0)
    assert session_scores(shared)["recall@1"] == 1 / 3


def test_a_memory_hears_all_sessions_before_the_first_question(
    tmp_path: Path, plan: Plan, models: Models, folding: type[Folding]
) -> None:
    measured(replace(plan, backends={"folding": {}}), models, tmp_path / "runs")
    case = next(iter(plan.dataset))
    turns = [turn.text for session in case.sessions for turn in session]
    questions = [question.text for question in case.questions]
    assert folding.handed[: len(turns) + len(questions)] == turns + questions
    assert [text for text in folding.handed if text in questions] == questions * 2


def test_a_memory_that_needs_the_model_is_measured_with_the_one_of_the_plan(
    tmp_path: Path, plan: Plan, folding: type[Folding], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures depend on the model even if no answers are asked for, so the run's name must too."""
    monkeypatch.setattr(folding, "needs", frozenset({"local_model"}))
    ours = replace(plan, backends={"folding": {}}, model="a")
    assert ours.description() != replace(ours, model="b").description()


# stopping and going on


def stopped(plan: Plan, models: Models, runs: Path, steps: int) -> int:
    """Measure so many steps; how many rows are there then."""
    with Run(plan, runs) as run:
        progress = measure(plan, run, models)
        assert isinstance(progress, Iterator)
        for _ in range(steps):
            next(progress)
        progress.close()  # type: ignore[attr-defined]
        return len(run.rows)


def test_a_run_stopped_anywhere_goes_on_to_the_same_rows(tmp_path: Path, plan: Plan, models: Models) -> None:
    plan = replace(plan, backends={"in_memory": {}}, answers=True)
    whole = without(measured(plan, models, tmp_path / "whole"), "seconds")
    for steps in range(1, count_steps(plan), 4):
        runs = tmp_path / f"after-{steps}"
        there = stopped(plan, models, runs, steps)
        with Run(plan, runs) as run:
            assert run.resumed == there
            for _ in measure(plan, run, models):
                pass
            assert without(run.rows, "seconds") == whole, f"stopped after {steps} steps"


def test_a_run_stopped_again_and_again_goes_on_with_all_memories(
    tmp_path: Path, plan: Plan, models: Models
) -> None:
    plan = replace(plan, backends={"none": {}, "in_memory": {}, "rag": {}})
    whole = measured(plan, models, tmp_path / "whole")
    for steps in (3, 17, 31, 38, 50):
        stopped(plan, models, tmp_path / "often", steps)
    rows = measured(plan, models, tmp_path / "often")
    assert without(rows, "seconds", "bytes") == without(whole, "seconds", "bytes")


class Died(Exception):  # noqa: N818
    """The process is gone."""


@pytest.mark.parametrize("at", range(0, 60, 4))
def test_a_death_before_a_row_is_written_changes_no_figure(
    tmp_path: Path, plan: Plan, models: Models, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """What a session took to write may be lost, but nothing recalled and nothing judged."""
    plan = replace(plan, backends={"in_memory": {}})
    add, added = Run.add, 0

    def dies(self: Run, row: Row) -> None:
        nonlocal added
        added += 1
        if added > at:
            raise Died
        add(self, row)

    whole = measured(plan, models, tmp_path / "whole")
    with monkeypatch.context() as patched, Run(plan, tmp_path / "cut") as run:
        patched.setattr(Run, "add", dies)
        try:
            for _ in measure(plan, run, models):
                pass
        except Died:
            pass
    rows = measured(plan, models, tmp_path / "cut")
    for kind in (RankRow, JudgeRow, SizeRow):
        for method in (CHANCE, SESSION_BM25, REFERENCE, "in_memory"):
            ours, theirs = of(rows, kind, method), of(whole, kind, method)
            assert without(list(ours.values()), "seconds") == without(list(theirs.values()), "seconds")
    of(rows, WriteRow, "in_memory")


def test_nothing_is_measured_twice(
    tmp_path: Path, plan: Plan, models: Models, folding: type[Folding]
) -> None:
    plan = replace(plan, backends={"folding": {}})
    measured(plan, models, tmp_path / "runs")
    folding.handed.clear()
    measured(plan, models, tmp_path / "runs")
    assert folding.handed == []
    # The baselines, 13 steps of the reference, three sessions, three questions.
    stopped(plan, models, tmp_path / "half", 20)
    folding.handed.clear()
    measured(plan, models, tmp_path / "half")
    case = next(iter(plan.dataset))
    texts = [question.text for question in case.questions]
    asked = [text for text in folding.handed if text in texts]
    assert asked == texts[3:] + texts


def test_the_homes_are_gone_at_the_end(tmp_path: Path, plan: Plan, models: Models) -> None:
    with Run(plan, tmp_path / "runs") as run:
        for _ in measure(plan, run, models):
            pass
        assert [path for path in (run.folder / "homes").rglob("*") if path.is_file()] == []
        run.finish({})
        assert sorted(path.name for path in run.folder.iterdir()) == [
            "lock",
            "manifest.json",
            "result.json",
            "rows.jsonl",
        ]


def test_a_user_s_own_home_is_left_alone(tmp_path: Path, home: Home, plan: Plan, models: Models) -> None:
    measured(plan, models, tmp_path / "runs")
    assert not home.root.exists()


def test_a_conversation_without_turns_is_measured_too(tmp_path: Path, models: Models) -> None:
    record = {**LOCOMO[0], "conversation": {"speaker_a": "Ana", "speaker_b": "Ben"}}
    plan = Plan(load(write(tmp_path / "empty.json", [record])), {"in_memory": {}}, "hashing 1")
    rows = measured(plan, models, tmp_path / "runs")
    assert all(row.turn is None for row in of(rows, RankRow, "in_memory").values())
