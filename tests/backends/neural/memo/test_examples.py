"""The experiments with MeMo: small runs, which continue where they stopped, and results that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.scripts import Finished, run_script

ROOT = Path(__file__).parents[4]
EXAMPLES = ROOT / "examples" / "memo"
CAPACITY = (
    "memo_capacity.py",
    "--sizes",
    "2x128x256",
    "4x128x256",
    "--vocabulary",
    "5000",
    "--seeds",
    "0",
    "1",
)
LAYERS = (
    *("memo_layers.py", "--layers", "1", "2", "--dims", "128", "--decoys", "0", "20"),
    *("--vocabulary", "500", "--iterations", "1", "--questions", "50"),
)


def run(script: str, *arguments: str) -> Finished:
    return run_script(EXAMPLES / script, *arguments)


@pytest.mark.parametrize("command", [CAPACITY, LAYERS], ids=["capacity", "layers"])
def test_an_experiment_continues_where_it_stopped(command: tuple[str, ...], tmp_path: Path) -> None:
    path, plot = tmp_path / "results.jsonl", tmp_path / "plot.png"
    arguments = (*command, "--results", str(path), "--output", "json")
    first = run(*arguments, "--plot", str(plot))
    assert first.returncode == 0, first.stderr
    assert plot.stat().st_size > 1000
    lines = path.read_text().splitlines()
    assert len(lines) == len(json.loads(first.stdout)["runs"]) == 4
    path.write_text("\n".join(lines[:2]) + "\n" + lines[2][:40])  # killed while it wrote
    second = run(*arguments)
    assert second.returncode == 0, second.stderr
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.read_text().startswith("\n".join(lines[:2]))
    for row in rows:
        row.pop("seconds")
    assert rows == [
        {key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines
    ]


def test_the_capacity_grows_with_the_matrix(tmp_path: Path) -> None:
    result = run(*CAPACITY, "--results", str(tmp_path / "results.jsonl"), "--output", "json")
    summary = json.loads(result.stdout)
    by_size: dict[int, set[int]] = {}
    for row in summary["runs"]:
        assert row["mean"] <= 0.9 < row["mean_held"]
        by_size.setdefault(row["parameters"], set()).add(row["capacity"])
    assert max(by_size[2 * 128 * 256]) <= min(by_size[4 * 128 * 256])
    assert summary["fit"]["slope"] > 0


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("[1]\n")
    result = run(*CAPACITY, "--results", str(path))
    assert result.returncode == 1
    assert "is not a file of results" in result.stderr
    assert path.read_text() == "[1]\n"


def test_speed_is_measured_beside_the_papers_equations() -> None:
    result = run("memo_speed.py", "--dims", "64", "--output", "json", "--compositions", "bound", "computed")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["runs"]
    assert [row["version"] for row in rows] == ["bound", "computed", "equations"]
    assert all(row["memorised"] > 0 and row["regenerated"] > 0 for row in rows)


def test_the_tasks_of_the_evaluation_harness_name_existing_data() -> None:
    lines = (EXAMPLES / "tasks" / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    for fact in map(json.loads, lines):
        assert fact["choices"][fact["label"]] == fact["answer"]
        assert len(set(fact["choices"])) == 4
    for task in ("memo_choice", "memo_recite"):
        content = (EXAMPLES / "tasks" / f"{task}.yaml").read_text(encoding="utf-8")
        assert "test: examples/memo/tasks/facts.jsonl" in content
