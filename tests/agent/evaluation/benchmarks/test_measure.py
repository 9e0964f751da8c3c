"""Measuring: the same questions for all, folding, and going on after a stop at any point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from memagent.agent.evaluation.benchmarks.measure import BM25, CHANCE, chosen, measure, work
from memagent.agent.evaluation.benchmarks.run import Plan, Run
from memagent.agent.evaluation.datasets.locomo import load
from memagent.agent.evaluation.scenarios.player import Models
from memagent.agent.home import Home
from memagent.backends import registry
from memagent.backends.in_memory import InMemory
from memagent.backends.records import Hit, Turn, WriteResult
from tests.agent.evaluation.benchmarks import LOCOMO, locomo_file, write

Row = dict[str, Any]


@pytest.fixture
def models(home: Home) -> Models:
    return Models.shared(home.models)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    backends: Mapping[str, Mapping[str, str]] = {"none": {}, "in_memory": {}}
    return Plan(load(locomo_file(tmp_path)), backends, "hashing 1", model="echo")


def timeless(rows: Sequence[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def measured(plan: Plan, models: Models, runs: Path) -> list[Row]:
    with Run(plan, runs) as run:
        for _ in measure(plan, run, models):
            pass
        return run.rows


def of(rows: Sequence[Row], kind: str, method: str) -> dict[tuple[str, str], Row]:
    found = [row for row in rows if row["kind"] == kind and row["method"] == method]
    keyed = {(row["case"], row["item"]): row for row in found}
    assert len(keyed) == len(found)
    return keyed


def test_all_methods_are_asked_the_same_questions(tmp_path: Path, plan: Plan, models: Models) -> None:
    rows = measured(plan, models, tmp_path / "runs")
    for method in (CHANCE, BM25, "none", "in_memory"):
        assert tuple(of(rows, "rank", method)) == plan.dataset.questions
    for method in ("none", "in_memory"):
        assert tuple(of(rows, "judge", method)) == plan.dataset.questions
        assert {key: row["turns"] for key, row in of(rows, "write", method).items()} == {
            ("conv-1", "session_1"): 3,
            ("conv-1", "session_2"): 2,
            ("conv-1", "session_10"): 1,
            ("conv-2", "session_1"): 2,
        }
        assert list(of(rows, "size", method)) == [("conv-1", "state"), ("conv-2", "state")]


def test_as_many_steps_are_made_as_announced(tmp_path: Path, plan: Plan, models: Models) -> None:
    for one in (plan, replace(plan, sample=2)):
        with Run(one, tmp_path / "runs") as run:
            assert sum(1 for _ in measure(one, run, models)) == work(one)
            assert sum(1 for _ in measure(one, run, models)) == work(one)


def test_rankings_are_what_the_memory_recalled(tmp_path: Path, plan: Plan, models: Models) -> None:
    rows = measured(plan, models, tmp_path / "runs")
    ranked = of(rows, "rank", "in_memory")
    called = {"recall@1": 1.0, "recall@5": 1.0, "recall@10": 1.0, "recall@20": 1.0, "rr": 1.0}
    assert ranked["conv-1", "0"]["turn"] == called
    assert ranked["conv-1", "0"]["session"] == called
    shared = ranked["conv-1", "1"]["turn"]  # three turns share one of the question's words each
    assert (shared["recall@1"], shared["recall@5"], shared["rr"]) == (1 / 3, 1.0, 1.0)
    assert (ranked["conv-1", "3"]["turn"], ranked["conv-1", "3"]["session"]) == (None, None)
    assert ranked["conv-1", "4"]["turn"] is not None  # a row has its evidence; reports leave it out
    nothing = of(rows, "rank", "none")["conv-1", "0"]
    assert set(nothing["turn"].values()) == {0.0}


def test_chance_is_k_of_the_turns_and_of_the_sessions(tmp_path: Path, plan: Plan, models: Models) -> None:
    row = of(measured(plan, models, tmp_path / "runs"), "rank", CHANCE)["conv-1", "0"]
    assert row["turn"] == {"recall@1": 1 / 6, "recall@5": 5 / 6, "recall@10": 1.0, "recall@20": 1.0}
    assert row["session"] == {"recall@1": 1 / 3, "recall@5": 1.0, "recall@10": 1.0, "recall@20": 1.0}


def test_abstention_is_judged_with_it_on_and_ranking_with_it_off(
    tmp_path: Path, plan: Plan, models: Models
) -> None:
    strict = replace(plan, backends={"in_memory": {"threshold": "0.9"}})
    rows = measured(strict, models, tmp_path / "runs")
    assert of(rows, "rank", "in_memory")["conv-1", "1"]["turn"]["recall@5"] == 1.0
    judged = of(rows, "judge", "in_memory")
    assert judged["conv-1", "1"]["abstained"]
    assert judged["conv-1", "4"]["abstained"]
    assert not judged["conv-1", "4"]["answerable"]
    lenient = of(measured(plan, models, tmp_path / "runs"), "judge", "in_memory")
    assert not lenient["conv-1", "0"]["abstained"]
    assert all(
        row["abstained"] for row in of(measured(plan, models, tmp_path / "n"), "judge", "none").values()
    )


def test_a_sample_is_drawn_by_the_seed(plan: Plan) -> None:
    everything = frozenset(plan.dataset.questions)
    assert chosen(plan) == chosen(replace(plan, sample=6)) == chosen(replace(plan, sample=99)) == everything
    samples = {chosen(replace(plan, sample=3, seed=seed)) for seed in range(8)}
    assert all(len(sample) == 3 and sample < everything for sample in samples)
    assert len(samples) > 1
    assert chosen(replace(plan, sample=3, seed=4)) == chosen(replace(plan, sample=3, seed=4))


def test_only_the_sample_is_measured(tmp_path: Path, plan: Plan, models: Models) -> None:
    some = replace(plan, sample=2)
    rows = measured(some, models, tmp_path / "runs")
    for method in (CHANCE, BM25, "none", "in_memory"):
        assert of(rows, "rank", method).keys() == chosen(some)


def test_answers_are_scored_where_there_is_one(tmp_path: Path, plan: Plan, models: Models) -> None:
    rows = measured(replace(plan, answers=True), models, tmp_path / "runs")
    judged = of(rows, "judge", "in_memory")
    assert "Biscuit" in judged["conv-1", "0"]["reply"]
    assert 0 < judged["conv-1", "0"]["f1"] <= 1
    assert "f1" not in judged["conv-1", "4"]
    assert sum("f1" in row for row in judged.values()) == 5
    assert not any("f1" in row for row in of(rows, "judge", BM25).values())


def test_rag_counts_its_calls_and_weighs_something(tmp_path: Path, plan: Plan, models: Models) -> None:
    rows = measured(replace(plan, backends={"rag": {}}), models, tmp_path / "runs")
    assert all(row["calls"] >= 1 for row in of(rows, "write", "rag").values())
    assert all(row["calls"] >= 1 for row in of(rows, "rank", "rag").values())
    assert all(row["bytes"] > 0 for row in of(rows, "size", "rag").values())
    assert of(rows, "rank", "rag")["conv-1", "0"]["turn"]["recall@5"] == 1.0


# stand-ins for a memory


@dataclass(frozen=True)
class PlainConfig:
    """No abstain among the settings."""


class Folding(InMemory):
    """Recalls long recollections, and keeps what it was told and asked."""

    name: ClassVar[str] = "folding"
    Config: ClassVar[Any] = PlainConfig
    heard: ClassVar[list[str]] = []

    def __init__(self, config: Any, resources: Any) -> None:
        self.config = config
        self._turns = {}

    def remember(self, turns: Sequence[Turn]) -> Sequence[WriteResult]:
        self.heard.extend(turn.text for turn in turns)
        return super().remember(turns)

    def recall(self, query: str, *, limit: int = 5) -> list[Hit]:
        self.heard.append(query)
        groups = [seqs for seqs in ((4, 5), (2, 5, 1), (6, 3)) if all(seq in self._turns for seq in seqs)]
        return [Hit(seqs, 1.0, "A stand-in.", text="…") for seqs in groups][:limit]


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> type[Folding]:
    get = registry.get
    monkeypatch.setattr(registry, "get", lambda name: Folding if name == "folding" else get(name))
    monkeypatch.setattr(Folding, "heard", [])
    return Folding


def test_a_recollection_of_several_turns_takes_several_places(
    tmp_path: Path, plan: Plan, models: Models, folding: type[Folding]
) -> None:
    """Recalled: turns 4 5, 2 (5) 1, 6 3; so 4 5 2 1 6 3, in session_2 2 1 1 10 1."""
    rows = measured(replace(plan, backends={"folding": {}}), models, tmp_path / "runs")
    ranked = of(rows, "rank", "folding")
    first = ranked["conv-1", "0"]  # evidence: turn 1, place 4
    assert (first["turn"]["rr"], first["turn"]["recall@5"]) == (1 / 4, 1.0)
    assert first["session"]["rr"] == 1 / 2
    shared = ranked["conv-1", "1"]  # evidence: turns 1, 5 and 6, places 4, 2 and 5
    assert (shared["turn"]["rr"], shared["turn"]["recall@1"], shared["turn"]["recall@5"]) == (1 / 2, 0.0, 1.0)
    assert shared["session"]["recall@1"] == 1 / 3


def test_a_memory_hears_all_sessions_before_the_first_question(
    tmp_path: Path, plan: Plan, models: Models, folding: type[Folding]
) -> None:
    measured(replace(plan, backends={"folding": {}}), models, tmp_path / "runs")
    case = next(iter(plan.dataset))
    said = [turn.text for session in case.sessions for turn in session]
    asked = [question.text for question in case.questions]
    assert folding.heard[: len(said) + len(asked)] == said + asked
    assert [text for text in folding.heard if text in asked] == asked * 2


def test_a_memory_that_needs_the_model_is_measured_with_the_one_of_the_plan(
    tmp_path: Path, plan: Plan, folding: type[Folding], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures depend on the model even if no answers are asked for, so the run's name must too."""
    monkeypatch.setattr(folding, "needs", frozenset({"local_model"}))
    ours = replace(plan, backends={"folding": {}}, model="a")
    assert ours.fields() != replace(ours, model="b").fields()


# stopping and going on


def stopped(plan: Plan, models: Models, runs: Path, steps: int) -> int:
    """Measure so many steps; how many rows are there then."""
    with Run(plan, runs) as run:
        going = measure(plan, run, models)
        assert isinstance(going, Iterator)
        for _ in range(steps):
            next(going)
        going.close()  # type: ignore[attr-defined]
        return len(run.rows)


def test_a_run_stopped_anywhere_goes_on_to_the_same_rows(tmp_path: Path, plan: Plan, models: Models) -> None:
    plan = replace(plan, backends={"in_memory": {}}, answers=True)
    whole = timeless(measured(plan, models, tmp_path / "whole"))
    for steps in range(1, work(plan), 2):
        runs = tmp_path / f"after-{steps}"
        there = stopped(plan, models, runs, steps)
        with Run(plan, runs) as run:
            assert run.resumed == there
            for _ in measure(plan, run, models):
                pass
            assert timeless(run.rows) == whole, f"stopped after {steps} steps"


def test_a_run_stopped_again_and_again_goes_on_with_all_memories(
    tmp_path: Path, plan: Plan, models: Models
) -> None:
    plan = replace(plan, backends={"none": {}, "in_memory": {}, "rag": {}})
    whole = measured(plan, models, tmp_path / "whole")
    for steps in (3, 17, 31, 38, 50):
        stopped(plan, models, tmp_path / "often", steps)
    rows = measured(plan, models, tmp_path / "often")
    assert [without(row, "bytes") for row in timeless(rows)] == [
        without(row, "bytes") for row in timeless(whole)
    ]


def without(row: Row, key: str) -> Row:
    return {name: value for name, value in row.items() if name != key}


class Died(Exception):  # noqa: N818
    """The process is gone."""


@pytest.mark.parametrize("at", range(0, 40, 3))
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
    for kind in ("rank", "judge", "size"):
        for method in (CHANCE, BM25, "in_memory"):
            ours, theirs = of(rows, kind, method), of(whole, kind, method)
            assert timeless(list(ours.values())) == timeless(list(theirs.values()))
    of(rows, "write", "in_memory")


def test_nothing_is_measured_twice(
    tmp_path: Path, plan: Plan, models: Models, folding: type[Folding]
) -> None:
    plan = replace(plan, backends={"folding": {}})
    measured(plan, models, tmp_path / "runs")
    folding.heard.clear()
    measured(plan, models, tmp_path / "runs")
    assert folding.heard == []
    stopped(plan, models, tmp_path / "half", 7)  # a baseline, three sessions, three questions
    folding.heard.clear()
    measured(plan, models, tmp_path / "half")
    case = next(iter(plan.dataset))
    texts = [question.text for question in case.questions]
    asked = [text for text in folding.heard if text in texts]
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
    assert all(row["turn"] is None for row in of(rows, "rank", "in_memory").values())
