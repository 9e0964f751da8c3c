"""The examples run, and the arithmetic of the fairy-tale experiment is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "fairy_tales.py"
TALES = os.environ.get("MEMAGENT_TALES", "")

_SCORING = """
from collections import Counter
from fairy_tales_measure import NONE
from fairy_tales_scorer import Scorer, accuracy, guesses

scorer = Scorer({"a": Counter(cat=9, the=5), "b": Counter(dog=9, the=5)})
assert scorer.best("The cat!")[0] == "a" and scorer.best("A dog's the")[0] == "b"
assert set(scorer.scores("the moon").values()) == {0.0}

telling = {str(n): {NONE: "the", "a": "cat cat", "b": "dog dog"} for n in range(6)}
told = accuracy(guesses(scorer, telling))
assert told["accuracy"] == 1.0 and told["p_shuffled"] < 0.01 and told["chance"] == 1 / 3

same = {str(n): dict.fromkeys((NONE, "a", "b"), "cat cat") for n in range(6)}
told = accuracy(guesses(scorer, same))
assert told["accuracy"] == told["chance"] and told["p_shuffled"] == 1.0
"""

_RESUMING = """
import sys
from pathlib import Path
from fairy_tales_measure import Measured
from fairy_tales_results import OtherRunError, Results

path = Path(sys.argv[1])
Results(path, {"model": "m"}).add(Measured("chunk", "a", "Who?", "Me.", 0.5, ("I",)))
path.write_bytes(path.read_bytes() + b'{"mode": "sp')
again = Results(path, {"model": "m"})
assert again.measured == [Measured("chunk", "a", "Who?", "Me.", 0.5, ("I",))]
assert again.done("chunk", "a") == {"Who?"} and not again.done("token", "a")
again.add(Measured("token", "a", "Who?", "You.", 0.1))
assert len(Results(path, {"model": "m"}).measured) == 2
try:
    Results(path, {"model": "other"})
except OtherRunError as error:
    assert "model" in str(error)
else:
    raise AssertionError("another model's results were taken for its own")
"""


def run(*command: str) -> str:
    """Run Python where the example's own modules are found."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(EXAMPLE.parent), str(ROOT / ".src")])}
    done = subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_scorer_tells_what_differs_and_stays_at_chance_where_nothing_does() -> None:
    run("-c", _SCORING)


def test_a_killed_run_continues_and_other_settings_are_refused(tmp_path: Path) -> None:
    run("-c", _RESUMING, str(tmp_path / "results.jsonl"))


@pytest.mark.slow
@pytest.mark.skipif(not TALES, reason="MEMAGENT_TALES names no folder of tales")
def test_the_experiment_runs(tmp_path: Path) -> None:
    results, picture = tmp_path / "results.jsonl", tmp_path / "tales.png"
    few = ("--tales", "2", "--questions", "2", "--max-tokens", "8")
    shown = run(
        str(EXAMPLE),
        TALES,
        *few,
        "--results",
        str(results),
        "--plot",
        str(picture),
        "--output",
        "json",
    )
    found = json.loads(shown)
    assert set(found["modes"]) == {"chunk", "token"}
    assert len(found["answers"]) == 2 + 2 * 2 * 2
    assert picture.read_bytes().startswith(b"\x89PNG")
