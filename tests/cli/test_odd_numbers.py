"""Numbers that no machine has a place for: every numeric option and setting says what it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from memagent.backends import registry
from memagent.cli.main import app
from tests.cli.walking import Command, commands, ended_well

WHOLE = (str(2**63), str(2**64), "-1", str(10**30), str(-(10**30)), "9" * 5000)
BROKEN = ("nan", "inf", "-inf", "1e400", "-1e400", str(10**400))
NUMERIC = [
    (command, option, value)
    for command in commands()
    for option, kind in command.options.items()
    if kind in (int, float)
    for value in (WHOLE if kind is int else (*WHOLE, *BROKEN))
]


@pytest.fixture
def spoken(home: object) -> None:
    """A user who has said something."""
    done = CliRunner().invoke(app, ["remember", "My dog is called Biscuit.", "--backend", "in_memory"])
    assert done.exit_code == 0


def test_the_walk_finds_the_numeric_options() -> None:
    found = {(*command.path, option) for command, option, _ in NUMERIC}
    assert {
        ("chat", "--max-tokens"),
        ("chat", "--temperature"),
        ("chat", "--seed"),
        ("recall", "--limit"),
        ("forget", "--seq"),
        ("scenario", "run", "--seed"),
        ("bench", "--sample"),
    } <= found


@pytest.mark.usefixtures("spoken")
@pytest.mark.parametrize(
    ("command", "option", "value"),
    [pytest.param(*case, id=f"{' '.join(case[0].path)} {case[1]} {case[2][:25]}") for case in NUMERIC],
)
def test_a_number_out_of_range_is_a_result_or_a_clear_error(
    tmp_path: Path, command: Command, option: str, value: str
) -> None:
    # titans hands its seed to torch, and its journal the numbers of turns to the database
    backend = ["--backend", "titans"] if "--backend" in command.options else []
    done = CliRunner().invoke(app, command.line(tmp_path, *backend, option, value))
    assert ended_well(done), done.exception


@pytest.mark.usefixtures("spoken")
@pytest.mark.parametrize(
    "backend", [name for name in registry.names() if "local_model" not in registry.get(name).needs]
)
def test_the_largest_limit_returns_all_there_is(backend: str) -> None:
    done = CliRunner().invoke(
        app, ["recall", "What is my dog called?", "-b", backend, "--limit", str(2**63 - 1)]
    )
    assert done.exit_code == 0, done.exception
    assert ("Biscuit" in done.output) == (backend != "none")
