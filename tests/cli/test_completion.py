"""Shell completion, asked for as shells do: through the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memagent.agent.home import Home
from memagent.backends import registry
from memagent.cli import completion
from memagent.cli.main import app
from tests.cli.test_help import HEAVY

PROGRAM = Path(sys.executable).with_name("memagent")


def completed(line: str) -> list[str]:
    """What a shell offers for the last word of a command line."""
    words = line.split(" ")
    environment = {
        "_MEMAGENT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = CliRunner().invoke(app, [], prog_name="memagent", env=environment)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@pytest.fixture
def spoken(home: Home) -> Home:
    """A home where two users have said something in sessions."""
    for user, session in (("ana", "monday"), ("ana", "tuesday"), ("bo", "march")):
        CliRunner().invoke(app, ["remember", "Hello.", "-u", user, "-s", session, "-b", "none"])
    return home


@pytest.mark.usefixtures("home")
def test_commands_and_options_are_completed() -> None:
    assert "recall" in completed("memagent rec")
    assert set(completed("memagent recall --ba")) == {"--backend"}
    assert completed("memagent chat --channel m") == ["model"]


@pytest.mark.usefixtures("home")
def test_backends_and_models_are_completed() -> None:
    assert completed("memagent chat --backend ") == registry.names()
    assert completed("memagent chat -b ti") == ["titans"]
    assert "all" in completed("memagent scenario run --backend a")
    assert completed("memagent backends show in") == ["in_memory"]
    assert completed("memagent chat --model smo") == ["smollm2-135m"]
    assert completed("memagent models pull all") == ["all-minilm-l6-v2", "all-mpnet-base-v2"]
    assert completed("memagent recall --embedder all-m") == [ "all-minilm-l6-v2", "all-mpnet-base-v2",
    ]  # fmt: skip
    assert completed("memagent recall --embedder multi") == ["multilingual"]


@pytest.mark.usefixtures("spoken")
def test_users_and_sessions_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed("memagent recall --user ") == ["ana", "bo"]
    assert completed("memagent chat --user ana --session ") == ["tuesday", "monday"]
    assert completed("memagent sessions show -u bo m") == ["march"]
    assert completed("memagent chat --session ") == []  # the default user has none
    monkeypatch.setenv("MEMAGENT_USER", "bo")
    assert completed("memagent chat --session ") == ["march"]


def test_the_settings_file_is_heeded(spoken: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text(f'user = "bo"\nhome = "{spoken.root}"\n')
    monkeypatch.delenv("MEMAGENT_HOME")
    assert completed("memagent sessions show ") == ["march"]
    (tmp_path / "config.toml").write_text("damaged")
    assert completed("memagent sessions show ") == []


@pytest.mark.usefixtures("home")
def test_keys_of_the_settings_file_are_completed() -> None:
    assert completed("memagent config set ho") == ["home"]
    assert "backends.rag." in completed("memagent config unset backends")


def test_odd_homes_and_names_are_passed_over(spoken: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (spoken.root / "users" / "%1B%5B31m").mkdir()
    assert completed("memagent recall --user ") == ["ana", "bo"]
    spoken.journal_file("ana").write_bytes(b"damaged")
    assert completed("memagent chat --user ana --session ") == []
    monkeypatch.setenv("MEMAGENT_HOME", "/dev/null")
    assert completed("memagent recall --user ") == []


def test_the_group_of_entry_points_is_the_registrys() -> None:
    assert completion._BACKENDS == registry.GROUP


@pytest.mark.parametrize("variables", [{"COMP_WORDS": "", "COMP_CWORD": "x"}, {}])
def test_a_shell_that_asks_oddly_gets_no_traceback(home: Home, variables: dict[str, str]) -> None:
    environment = {**os.environ, "_MEMAGENT_COMPLETE": "complete_bash", **variables}
    done = subprocess.run([PROGRAM], capture_output=True, env=environment, check=False)
    assert done.stderr == b""


@pytest.mark.parametrize(
    "line", ["memagent chat --backend ", "memagent chat -u ana -s ", "memagent chat -m "]
)
def test_completion_imports_nothing_heavy(spoken: Home, line: str) -> None:
    words = line.split(" ")
    environment = {
        **os.environ, "_MEMAGENT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    command = [sys.executable, "-X", "importtime", str(PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    packages = {row.rpartition("|")[2].strip().partition(".")[0] for row in done.stderr.splitlines()}
    assert packages.isdisjoint({*HEAVY, "pydantic_settings", "rich"})
