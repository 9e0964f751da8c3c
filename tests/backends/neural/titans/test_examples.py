"""The examples that train Titans: sequences, continuation of a killed run, refused arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.scripts import Finished, imported, run_script

ROOT = Path(__file__).parents[4]
EXAMPLES = ROOT / "examples"
SMALL = (
    *("--set", "hidden_size=16", "--set", "intermediate_size=16", "--set", "num_hidden_layers=1"),
    *("--set", "num_attention_heads=1", "--set", "memory_depth=1", "--set", "window=8"),
    *("--steps", "8", "--batch", "4", "--length", "24", "--save-every", "3", "--test-sequences", "8"),
)

# Kills itself after the fifth update, two updates after a checkpoint.
_KILLED = """
import os, signal, sys
import titans_train
from titans_training import Trainer

run = Trainer.run
def dying(self, save_every, on_update):
    def count(loss):
        on_update(loss)
        if self.step == 5:
            (self.folder / ".step-6.part").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
    run(self, save_every, count)

Trainer.run = dying
titans_train.main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let accelerate choose the CPU, and forget its choice after the test."""
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def train(*arguments: str) -> Finished:
    return run_script(EXAMPLES / "titans_train.py", *arguments)


def python(*command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the examples' modules on its path."""
    path = os.pathsep.join([str(EXAMPLES), str(ROOT / ".src")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, env=environment
    )


def losses(folder: Path) -> list[float]:
    (checkpoint,) = folder.glob("step-*")
    values: list[float] = json.loads((checkpoint / "progress.json").read_text())["losses"]
    return values


def test_recall_sequences_have_pairs_and_their_questions() -> None:
    data = imported(EXAMPLES, "titans_data")
    source = data.Recall(3, keys=5, values=7, seed=1)
    ids, labels = source.batch(4, 50, 40)
    assert torch.equal(ids, source.batch(4, 50, 40)[0])
    assert not torch.equal(ids, source.batch(5, 50, 40)[0])
    assert not torch.equal(ids, source.batch(4, 50, 40, data.TESTING)[0])
    assert ids.max() < source.vocabulary
    assert ids.min() >= 0
    ignored = data.IGNORED
    for row, row_labels in zip(ids.tolist(), labels.tolist(), strict=True):
        body, tail = row[:31], row[31:]
        pairs = {token: body[place + 1] for place, token in enumerate(body) if token >= 7}
        assert len(pairs) == 3
        assert max(pairs) < 12
        assert max(pairs.values()) < 7
        assert tail[::3] == [12] * 3
        assert {*tail[1::3]} == {*pairs}
        assert tail[2::3] == [pairs[key] for key in tail[1::3]]
        expected_labels = [label for value in tail[2::3] for label in (ignored, ignored, value)]
        assert row_labels == [ignored] * 31 + expected_labels
    with pytest.raises(data.DataError):
        data.Recall(6, keys=5)
    with pytest.raises(data.DataError):
        data.Recall(0)
    with pytest.raises(data.DataError):
        source.batch(0, 1, 14)


def test_a_killed_training_continues_with_the_same_losses(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    task = ("needle", "--variant", "mag", *SMALL)
    done = train(*task, "--folder", str(whole), "--output", "json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["steps"] == 8
    assert 0 <= summary["test_accuracy"] <= 1
    assert (whole / "loss.png").read_bytes().startswith(b"\x89PNG")

    assert python("-c", _KILLED, *task, "--folder", str(killed)).returncode == -9
    assert len(losses(killed)) == 3
    done = train(*task, "--folder", str(killed))
    assert done.returncode == 0, done.stderr
    assert losses(killed) == losses(whole)

    done = train(*task, "--folder", str(killed), "--seed", "1")
    assert done.returncode == 1
    assert "another" in done.stderr
    assert "training" in done.stderr


def test_a_model_of_a_text_is_trained_and_sampled(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The tide comes in, the tide goes out. " * 20, encoding="utf-8")
    done = train("text", str(text), "--folder", str(tmp_path / "run"), *SMALL, "--output", "json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert 0 < summary["test_bits_per_byte"] < 8
    assert len(summary["sample"]) > 24


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["text"], "needs files"),
        (["text", "absent.txt"], "cannot be read"),
        (["recall", "--pairs", "99"], "Pairs must be 1 to 16"),
        (["recall", "absent.txt"], "reads no files"),
        (["needle", "--set", "depth=2"], "hyperparameter of TitansConfig"),
        (["needle", "--set", "window=wide"], "type int"),
        (["needle", "--set", "window=0"], "at least 1"),
        (["needle", "--steps", "0"], "must be 1 or more"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], expected: str, tmp_path: Path) -> None:
    done = train(*arguments, "--folder", str(tmp_path / "run"))
    assert done.returncode != 0
    assert expected in done.stderr
