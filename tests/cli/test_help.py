"""--help: instant, complete, and the same for every command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from memagent import __version__
from memagent.cli.main import app

HEAVY = ("torch", "transformers", "chromadb", "sqlalchemy", "langchain_core", "mcp", "numpy", "uvicorn")
TREE = typer.main.get_command(app)


def commands(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group, from the root down."""
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


COMMANDS = list(commands(TREE))


def imported(*arguments: str) -> set[str]:
    """Top-level packages that a command imports, as Python itself reports them."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True
    )
    assert "Usage" in done.stdout or not arguments[-1].startswith("-")
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_help_imports_nothing_heavy() -> None:
    packages = imported(str(Path(sys.executable).with_name("memagent")), "--help")
    assert "typer" in packages
    assert packages.isdisjoint(HEAVY)


def test_the_help_of_a_command_imports_nothing_heavy() -> None:
    packages = imported(str(Path(sys.executable).with_name("memagent")), "chat", "--help")
    assert packages.isdisjoint(HEAVY)


def test_the_package_itself_imports_nothing_heavy() -> None:
    packages = imported("-c", "import memagent; print(memagent.__version__)")
    assert "memagent" in packages
    assert packages.isdisjoint(HEAVY)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(path: tuple[str, ...], option: str) -> None:
    done = CliRunner().invoke(app, [*path, option])
    assert done.exit_code == 0
    assert f"Usage: {' '.join(['memagent', *path])}" in done.stdout


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does(path: tuple[str, ...]) -> None:
    command: object = TREE
    for name in path:
        command = getattr(command, "commands")[name]  # noqa: B009 - groups only have it
    assert len(getattr(command, "help", None) or "") > 10
    for parameter in getattr(command, "params", []):
        assert getattr(parameter, "help", None), f"{path}: {parameter.name} has no help"


def test_the_documented_commands_are_there() -> None:
    found = {" ".join(path) for path in COMMANDS}
    assert {"chat", "remember", "recall", "forget", "export", "import", "doctor"} <= found
    assert {f"sessions {name}" for name in ("list", "show", "delete", "export")} <= found
    assert {f"backends {name}" for name in ("list", "show", "rebuild", "consolidate", "stats")} <= found
    assert {f"models {name}" for name in ("list", "pull", "verify")} <= found


def test_without_a_command_there_is_help() -> None:
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 2
    assert "Usage: memagent" in done.output


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("group", ["sessions", "backends", "models"])
def test_a_group_without_a_command_lists(group: str) -> None:
    CliRunner().invoke(app, ["remember", "My dog is called Biscuit.", "-b", "none"])
    bare, listed = CliRunner().invoke(app, [group]), CliRunner().invoke(app, [group, "list"])
    assert (bare.exit_code, bare.stdout) == (0, listed.stdout)
    assert bare.stdout.count("\n") >= 2


def test_the_version_is_the_packages() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"memagent {__version__}\n")


@pytest.mark.parametrize(
    "arguments", [["chatt"], ["chat", "--modell", "echo"], ["recall"], ["sessions", "nosuch"]]
)
def test_a_wrong_usage_exits_with_two_and_says_so_on_stderr(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Usage: memagent" in done.stderr
