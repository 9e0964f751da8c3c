"""The examples run, and the arithmetic of the fairy-tale experiment is right."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.scripts import imported, run_script

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "fairy_tales.py"
TALES = os.environ.get("MEMAGENT_TALES", "")


def test_a_scorer_tells_what_differs_and_stays_at_chance_where_nothing_does() -> None:
    scoring, none = (
        imported(EXAMPLE.parent, "fairy_tales_scorer"),
        imported(EXAMPLE.parent, "fairy_tales_measure").NONE,
    )
    scorer = scoring.Scorer({"a": Counter(cat=9, the=5), "b": Counter(dog=9, the=5)})
    assert scorer.best("The cat!")[0] == "a"
    assert scorer.best("A dog's the")[0] == "b"
    assert set(scorer.scores("the moon").values()) == {0.0}

    different = {str(n): {none: "the", "a": "cat cat", "b": "dog dog"} for n in range(6)}
    result = scoring.accuracy(scoring.guesses(scorer, different))
    assert result["accuracy"] == 1.0
    assert result["p_shuffled"] < 0.01
    assert result["chance"] == 1 / 3

    same = {str(n): dict.fromkeys((none, "a", "b"), "cat cat") for n in range(6)}
    result = scoring.accuracy(scoring.guesses(scorer, same))
    assert result["accuracy"] == result["chance"]
    assert result["p_shuffled"] == 1.0


def test_a_killed_run_continues_and_other_settings_are_refused(tmp_path: Path) -> None:
    measured_as = imported(EXAMPLE.parent, "fairy_tales_measure").Measured
    results = imported(EXAMPLE.parent, "fairy_tales_results")
    path = tmp_path / "results.jsonl"
    results.Results(path, {"model": "m"}).add(measured_as("chunk", "a", "Who?", "Me.", 0.5, ("I",)))
    path.write_bytes(path.read_bytes() + b'{"mode": "sp')
    again = results.Results(path, {"model": "m"})
    assert again.measured == [measured_as("chunk", "a", "Who?", "Me.", 0.5, ("I",))]
    assert again.done("chunk", "a") == {"Who?"}
    assert not again.done("token", "a")
    again.add(measured_as("token", "a", "Who?", "You.", 0.1))
    assert len(results.Results(path, {"model": "m"}).measured) == 2
    with pytest.raises(results.OtherRunError, match="model"):
        results.Results(path, {"model": "other"})


@pytest.mark.slow
@pytest.mark.skipif(not TALES, reason="MEMAGENT_TALES names no folder of tales")
def test_the_experiment_runs(tmp_path: Path) -> None:
    results, picture = tmp_path / "results.jsonl", tmp_path / "tales.png"
    few = ("--tales", "2", "--questions", "2", "--max-tokens", "8")
    done = run_script(
        EXAMPLE,
        TALES,
        *few,
        "--results",
        str(results),
        "--plot",
        str(picture),
        "--output",
        "json",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["modes"]) == {"chunk", "token"}
    assert len(found["answers"]) == 2 + 2 * 2 * 2
    assert picture.read_bytes().startswith(b"\x89PNG")
