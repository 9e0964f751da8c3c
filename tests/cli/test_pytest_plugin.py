"""The pytest plugin, in projects of its users: each test runs a pytest of its own, most of them in this process."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from memagent.agent.home import Home
from memagent.backends.shared.text import UNSAFE

DOGS = """\
name: a dog is remembered
tags: [pets]
steps:
  - {session: s, say: My dog is called Biscuit.}
  - ask: What is my dog called?
    expect: {recalled: Biscuit}
---
name: the answer names the dog
backends: in_memory
tags: [answers]
steps:
  - {session: s, say: My dog is called Biscuit.}
  - ask: What is my dog called?
    expect: {reply: Biscuit}
"""


@pytest.fixture
def project(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pytest configuration that turns warnings into errors."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # others take seconds to load
    made = tmp_path / "project"
    made.mkdir()
    configure(made)
    return made


def configure(project: Path, *lines: str) -> None:
    config_lines = [
        "[pytest]",
        "filterwarnings = error",
        "addopts = --strict-markers --strict-config",
        *lines,
    ]
    (project / "pytest.ini").write_text("\n".join(config_lines), encoding="utf-8")


# Assertions of the process are rewritten already, of which pytest before 9.2 warns, and its faults reported.
IN_PROCESS = (
    *("-p", "no:faulthandler", "-p", "no:cacheprovider", "--import-mode=importlib"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)


def run(project: Path, *arguments: str, exit_code: int) -> list[str]:
    """Run pytest in the project, with no plugin but ours, by the name of its entry point: the lines it printed."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(out):
        patch.chdir(project)
        code = pytest.main(["-p", "memagent", "-v", *IN_PROCESS, *arguments])
    assert code == exit_code, out.getvalue()
    return [line.rstrip() for line in out.getvalue().splitlines()]


def run_process(project: Path, *arguments: str, exit_code: int) -> list[str]:
    """Do the same in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-p", "memagent", "-p", "no:cacheprovider", "-v", *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return [line.rstrip() for line in done.stdout.splitlines()]


def verdicts(lines: list[str]) -> dict[str, str]:
    """What came of each item, by name."""
    found: dict[str, str] = {}
    for line in lines:
        place, _, rest = line.partition("::")
        for verdict in ("PASSED", "FAILED", "SKIPPED", "ERROR"):
            name, separator, _ = rest.partition(f" {verdict}")
            if separator and place.endswith(".yaml"):
                found[name] = verdict
    return found


def test_pytest_finds_the_plugin_by_itself(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    (project / "dogs.recall.yaml").write_text(DOGS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0] == "dogs.recall.yaml::a dog is remembered[rag]"  # the default


def test_each_scenario_is_an_item_on_each_backend_it_is_for(project: Path) -> None:
    (project / "dogs.recall.yaml").write_text(DOGS, encoding="utf-8")
    (project / "other.yaml").write_text("not: a scenario", encoding="utf-8")
    (project / "test_other.py").write_text("def test_other() -> None: ...\n", encoding="utf-8")
    chosen = ["--memagent-backend", "in_memory", "--memagent-backend", "none", "--memagent-model", "echo"]
    lines = run_process(project, *chosen, exit_code=1)
    assert verdicts(lines) == {
        "a dog is remembered[in_memory]": "PASSED",
        "a dog is remembered[none]": "FAILED",
        "the answer names the dog[in_memory]": "PASSED",
    }
    assert any("1 failed, 3 passed" in line for line in lines)


def test_a_failure_says_what_was_asked_recalled_and_why_and_answered(project: Path) -> None:
    text = DOGS.replace("recalled: Biscuit", "recalled: Rex, reply: Rex")
    (project / "dogs.recall.yaml").write_text(text, encoding="utf-8")
    configure(project, "memagent_backends = in_memory", "memagent_model = echo")
    lines = run(project, exit_code=1)
    at = lines.index("a dog is remembered [in_memory]  " + str(project / "dogs.recall.yaml") + ":1")
    shown = lines[at + 1 : at + 10]
    assert shown[:3] == [
        "  asked     What is my dog called?",
        "  recalled  1. 1.00  My dog is called Biscuit.",
        "            2026-01-05, session s. It holds 100% of the question's words.",
    ]
    assert shown[3].startswith(
        "  answered  <memory> - [2026-01-05, session s, user] My dog is called Biscuit."
    )
    assert shown[4:6] == ["  wrong     not recalled: 'Rex'", "            the reply lacks 'Rex'"]
    assert not any("Traceback" in line or "RecallFailed(" in line for line in lines)
    assert any(line.startswith("FAILED dogs.recall.yaml::a dog is remembered[in_memory]") for line in lines)


def test_recall_only_skips_what_only_a_reply_could_show(project: Path) -> None:
    (project / "dogs.recall.yaml").write_text(DOGS, encoding="utf-8")
    configure(project, "memagent_backends = in_memory none", "memagent_model = nosuch:model")
    lines = run(project, "--memagent-recall-only", "-rs", exit_code=1)
    assert verdicts(lines) == {
        "a dog is remembered[in_memory]": "PASSED",
        "a dog is remembered[none]": "FAILED",
        "the answer names the dog[in_memory]": "SKIPPED",
    }
    assert any("all its expectations are of replies, and no model was asked" in line for line in lines)


def test_a_mistake_in_a_file_is_an_error_of_collection_with_its_line(project: Path) -> None:
    file = project / "dogs.recall.yml"
    file.write_text(DOGS.replace("steps:", "stpes:", 1), encoding="utf-8")
    (project / "fine.recall.yaml").write_text(DOGS, encoding="utf-8")
    lines = run(project, "--memagent-backend", "in_memory", exit_code=2)
    assert f"{file}:3: stpes: no such field here; did you mean steps?" in [line.strip() for line in lines]
    assert any(line.startswith("ERROR dogs.recall.yml") for line in lines)
    assert not any("Traceback" in line for line in lines)


def test_a_backend_that_does_not_exist_is_an_error_of_collection(project: Path) -> None:
    (project / "dogs.recall.yaml").write_text(DOGS, encoding="utf-8")
    lines = run(project, "--memagent-backend", "in_memry", exit_code=2)
    assert any("in_memry" in line and "in_memory" in line for line in lines)


def test_the_command_line_wins_over_the_configuration_and_isolated_works(project: Path) -> None:
    (project / "dogs.recall.yaml").write_text(DOGS, encoding="utf-8")
    configure(project, "memagent_backends = rag none")
    lines = run(
        project, "--memagent-backend", "in_memory", "--memagent-isolated", "-k", "remembered", exit_code=0
    )
    assert verdicts(lines) == {"a dog is remembered[in_memory]": "PASSED"}


def test_an_item_is_selected_by_backend_and_by_its_address(project: Path) -> None:
    (project / "dogs.recall.yaml").write_text(DOGS, encoding="utf-8")
    configure(project, "memagent_backends = in_memory none")
    assert verdicts(run(project, "-k", "dog and none", exit_code=1)) == {
        "a dog is remembered[none]": "FAILED"
    }
    address = "dogs.recall.yaml::a dog is remembered[in_memory]"
    assert verdicts(run(project, address, exit_code=0)) == {"a dog is remembered[in_memory]": "PASSED"}


def test_an_item_is_selected_by_a_tag(project: Path) -> None:
    (project / "dogs.recall.yaml").write_text(DOGS, encoding="utf-8")
    lines = run(project, "--memagent-backend", "in_memory", "-k", "pets", exit_code=0)
    assert verdicts(lines) == {"a dog is remembered[in_memory]": "PASSED"}


def test_control_characters_do_not_reach_the_terminal(project: Path) -> None:
    text = DOGS.replace("What is my dog called?", '"\\e[2JWho?"')
    (project / "dogs.recall.yaml").write_text(text, encoding="utf-8")
    lines = run(project, "--memagent-backend", "none", exit_code=1)
    assert any("Who?" in line for line in lines)
    assert not any("\x1b" in line for line in lines)


EVIL = "Biscuit\x1b[2J\x07\x7f\x9b31m\u202ecod\u2066\u2028"


@pytest.mark.parametrize(
    ("text", "exit_code"),
    [
        (DOGS.replace("tags", json.dumps(EVIL)), 2),
        (DOGS.replace("name: a dog is remembered", f"name: {json.dumps(EVIL)}"), 2),
        (DOGS.replace("recalled: Biscuit", f"recalled: {json.dumps(EVIL)}"), 1),
        (DOGS.replace("What is my dog called?", json.dumps(EVIL)), 1),
    ],
)
def test_no_text_of_a_scenario_commands_the_terminal(project: Path, text: str, exit_code: int) -> None:
    (project / "dogs.recall.yaml").write_text(text, encoding="utf-8")
    lines = run(project, "--memagent-backend", "none", "--memagent-recall-only", exit_code=exit_code)
    assert any("Biscuit" in line and "cod" in line for line in lines)
    assert not UNSAFE.search("".join(lines))


def test_no_text_of_an_unexpected_exception_commands_the_terminal(project: Path) -> None:
    (project / "dogs.recall.yaml").write_text(DOGS, encoding="utf-8")
    (project / "conftest.py").write_text(
        "import memagent.agent.evaluation.scenarios as scenarios\n\n\n"
        f"def fail(*arguments, **named):\n    raise RuntimeError({EVIL!r})\n\n\nscenarios.run = fail\n",
        encoding="utf-8",
    )
    lines = run_process(project, "--memagent-backend", "none", exit_code=1)
    assert any("RuntimeError: Biscuit·[2J" in line for line in lines)
    assert not UNSAFE.search("".join(lines))
