"""memagent bench: locomo and longmemeval."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from memagent.agent.home import Home
from memagent.backends.errors import InputError, MissingExtraError, NotFoundError
from memagent.cli.main import app
from tests.agent.evaluation.datasets.files import LOCOMO, LONGMEMEVAL, locomo_file, write
from tests.cli.running import Run, run  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that holds only the benchmark, with the echo model."""
    monkeypatch.setenv("MEMAGENT_MODEL", "echo")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    locomo_file(Path())


def memagent(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments])


def measured(*arguments: str, name: str = "locomo", file: str = "locomo10.json") -> dict[str, Any]:
    done = memagent(name, file, *arguments, "--output", "json")
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def called(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "memagent.cli.main", "bench", *arguments]


def figures(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What does not depend on the clock."""
    return [{key: value for key, value in row.items() if key != "cost"} for row in summary["results"]]


def test_the_json_has_the_documented_fields() -> None:
    found = measured("--backend", "in_memory", "--backend", "none", "--backend", "rag")
    assert list(found) == ["manifest", "results", "differences"]
    assert found["manifest"]["benchmark"] == "locomo"
    assert {row["backend"] for row in found["results"]} == {
        "chance",
        "bm25",
        "bm25_sessions",
        "none",
        "in_memory",
        "rag",
    }
    assert {row["level"] for row in found["results"]} == {"turn", "session"}
    for row in found["results"]:
        assert list(row)[:9] == [
            "backend",
            "level",
            "categories",
            "questions",
            "recall@1",
            "recall@5",
            "recall@10",
            "recall@20",
            "mrr",
        ]
        assert (row["categories"], row["questions"]) == ("1-4", 4)


def test_the_same_measured_again_gives_the_same_figures() -> None:
    assert figures(measured("-b", "in_memory")) == figures(measured("-b", "in_memory"))


def test_longmemeval_is_measured() -> None:
    write(Path("longmemeval.json"), LONGMEMEVAL)
    found = measured("-b", "in_memory", name="longmemeval", file="longmemeval.json")
    (row,) = [row for row in found["results"] if (row["backend"], row["level"]) == ("in_memory", "turn")]
    assert (row["categories"], row["questions"]) == ("all", 1)
    assert row["abstention"]["unanswerable"] == 1


def test_the_tables_name_every_method_and_warn_of_a_small_corpus() -> None:
    done = memagent("locomo", "locomo10.json", "-b", "in_memory", "-b", "none")
    assert done.exit_code == 0, done.exception
    assert "locomo, locomo10.json: 2 conversations, 8 turns; hashing embeddings, seed 0" in done.stdout
    assert "Evidence turns found, 4 questions (categories 1-4)" in done.stdout
    assert "Evidence sessions found" in done.stdout
    assert "k is near the number of turns, see chance." in done.stdout
    assert "Questions without an answer: 1" in done.stdout
    assert "in_memory - none" in done.stdout
    first = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    assert "recall@10 against bm25_sessions" in done.stdout
    assert [word for word in first if word in ("chance", "bm25", "none", "in_memory")][:4] == [
        "chance",
        "bm25",
        "none",
        "in_memory",
    ]
    assert "Every measurement: " in done.stderr


def test_the_folder_of_a_run_is_in_the_home(home: Home) -> None:
    measured("-b", "none")
    (folder,) = (home.root / "bench").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "lock",
        "manifest.json",
        "result.json",
        "rows.jsonl",
    ]
    assert [path for path in home.root.iterdir() if path.name != "bench"] == []


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_plot_alone_draws_beside_you(place: str) -> None:
    options = ["-b", "none"]
    arguments = {
        "first": ["--plot", "locomo10.json", *options],
        "middle": ["locomo10.json", "--plot", *options],
        "last": ["locomo10.json", *options, "--plot"],
    }[place]
    done = memagent("locomo", *arguments)
    assert done.exit_code == 0, done.exception
    assert Path("locomo.png").read_bytes().startswith(b"\x89PNG")
    assert "Drew locomo.png." in done.stderr


@pytest.mark.parametrize("arguments", [("--plot", "x.svg"), ("--plot=x.svg",)])
def test_plot_takes_a_file(arguments: tuple[str, ...]) -> None:
    done = memagent("locomo", "locomo10.json", "-b", "none", *arguments)
    assert done.exit_code == 0, done.exception
    assert Path("x.svg").exists()
    assert not Path("locomo.png").exists()


@pytest.mark.parametrize("file", ["x.jpg", "missing/x.png"])
def test_a_picture_that_cannot_be_is_refused_before_anything_is_measured(home: Home, file: str) -> None:
    done = memagent("locomo", "locomo10.json", "-b", "none", "--plot", file)
    assert isinstance(done.exception, InputError)
    assert not home.root.exists()


def test_plot_without_matplotlib_is_refused_before_anything_is_measured(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = memagent("locomo", "locomo10.json", "-b", "none", "--plot", "x.png")
    assert isinstance(done.exception, MissingExtraError)
    assert "pip install 'memagent[plot]'" in str(done.exception)
    assert not home.root.exists()


def test_an_unknown_backend_is_refused(home: Home) -> None:
    done = memagent("locomo", "locomo10.json", "-b", "in_memroy")
    assert isinstance(done.exception, NotFoundError)
    assert "Did you mean in_memory" in str(done.exception)
    assert not home.root.exists()


def test_a_sample_must_be_at_least_one() -> None:
    assert memagent("locomo", "locomo10.json", "-b", "none", "--sample", "0").exit_code == 2


def test_a_sample_is_measured() -> None:
    found = measured("-b", "in_memory", "--sample", "3", "--seed", "2")
    assert (found["manifest"]["sample"], found["manifest"]["seed"]) == (3, 2)
    assert {row["questions"] for row in found["results"]} <= {1, 2, 3}


def test_a_sample_without_evidence_is_measured_too() -> None:
    record = {**LOCOMO[0], "qa": LOCOMO[0]["qa"][4:]}
    write(Path("none.json"), [record])
    done = memagent("locomo", "none.json", "-b", "in_memory")
    assert done.exit_code == 0, done.exception
    assert "Questions without an answer: 1" in done.stdout


def test_answers_are_scored() -> None:
    found = measured("-b", "in_memory", "--answers")
    (row,) = [row for row in found["results"] if "answers" in row]
    assert row["backend"] == "in_memory"
    assert row["answers"]["questions"] == 5
    assert 0 < row["answers"]["token_f1"] < 1
    assert found["manifest"]["answers"] == {"channel": "auto"}
    assert found["manifest"]["model"] == "echo"
    assert "token-F1" in memagent("locomo", "locomo10.json", "-b", "in_memory", "--answers").stdout


def test_a_setting_reaches_its_memory() -> None:
    found = measured("-b", "in_memory", "--set", "threshold=1")
    assert found["manifest"]["backends"] == {"bm25": {}, "in_memory": {"threshold": "1"}}


def test_a_damaged_file_ends_in_a_message_and_exit_code_1(home: Home, run: Run) -> None:  # noqa: F811
    Path("cut.json").write_bytes(Path("locomo10.json").read_bytes()[:-40])
    done = run("bench", "locomo", "cut.json", "-b", "none")
    assert (done.exit_code, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"Error: cut.json is cut short or damaged")
    assert b"Traceback" not in done.stderr
    assert not home.root.exists()


# killed and continued


@pytest.fixture
def large() -> Path:
    """A file that takes a second or two: 4 conversations of 12 sessions."""
    words = ["dog", "cat", "boat", "lake", "tree", "bread", "wine", "song", "book", "lamp", "river", "stone"]
    records = []
    for case in range(4):
        conversation: dict[str, Any] = {"speaker_a": "Ana", "speaker_b": "Ben"}
        for session in range(1, 13):
            conversation[f"session_{session}_date_time"] = f"1:00 pm on {session} May, 2023"
            conversation[f"session_{session}"] = [
                {
                    "speaker": "Ana" if turn % 2 else "Ben",
                    "dia_id": f"D{session}:{turn}",
                    "text": f"The {words[(case + turn) % 12]} and the {words[session - 1]}, day {session * turn}.",
                }
                for turn in range(1, 11)
            ]
        asked = [
            {
                "question": f"What of the {word} on day {number}?",
                "category": number % 5 + 1,
                "evidence": [f"D{number + 1}:{number % 10 + 1}"],
                "answer": word,
            }
            for number, word in enumerate(words)
        ]
        records.append({"sample_id": f"conv-{case}", "conversation": conversation, "qa": asked})
    return write(Path("large.json"), records)


def test_a_killed_run_continues_with_the_same_command(home: Home, large: Path) -> None:
    arguments = ("locomo", str(large), "-b", "in_memory", "-b", "none", "--output", "json")
    command = called(*arguments)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        lines, patience = 0, time.monotonic() + 60
        while lines < 30 and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.005)
            lines = sum(path.read_bytes().count(b"\n") for path in home.root.glob("bench/*/rows.jsonl"))
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (rows,) = home.root.glob("bench/*/rows.jsonl")
    there = rows.read_bytes().count(b"\n")
    done = memagent(*arguments)
    assert done.exit_code == 0, done.stderr
    assert f"{there:,} measurements are there. --fresh starts over." in done.stderr
    continued = json.loads(done.stdout)
    whole = measured("-b", "in_memory", "-b", "none", "--fresh", file=str(large))
    assert continued["manifest"]["code"] == whole["manifest"]["code"]
    assert figures(continued) == figures(whole)
    assert continued["differences"] == whole["differences"]
    assert not list(home.root.glob("bench/*/homes"))
