"""Odd environments and arguments: every command ends with a result, a clear error or a usage error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memagent.agent.home import Home
from memagent.backends.errors import MemagentError, ModelError, NotFoundError, SettingError
from memagent.cli import opening as common
from memagent.cli.main import app
from tests.cli.walking import Command, commands, ended_well

COMMANDS = [pytest.param(command, id=" ".join(command.path)) for command in commands()]
NOT_UTF8 = "caf\udce9"
PLACES: dict[str, Callable[[Path], str]] = {
    "of nobody": lambda folder: "~nosuchuser/x",
    "a file": lambda folder: str(folder / "file"),
    "below a file": lambda folder: str(folder / "file" / "x"),
    "a link to nothing": lambda folder: str(folder / "dangling"),
    "a link to itself": lambda folder: str(folder / "loop"),
    "a name too long": lambda folder: str(folder / ("x" * 300)),
    "a path too long": lambda folder: str(folder) + "/x" * 3000,
    "not UTF-8": lambda folder: str(folder / NOT_UTF8),
    "white space": lambda folder: " ",
}
ODD_NAMES = [
    "", " ", "nosuch", "all", "none in_memory", NOT_UTF8, "x" * 1000, "../..", "\x1b[31m", "/dev/zero", "~nosuchuser/x",
    "provider:", "a/b",
]  # fmt: skip


@pytest.fixture(autouse=True)
def spoken(home: Home) -> Iterator[None]:
    """A user who has said something, and a model that is not kept from one test to the next."""
    done = CliRunner().invoke(app, ["remember", "My dog is called Biscuit.", "--backend", "in_memory"])
    assert done.exit_code == 0
    common.models_in.cache_clear()
    yield
    common.models_in.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with a file and two links in it."""
    made = tmp_path / "odd"
    made.mkdir()
    (made / "file").write_text("x")
    (made / "dangling").symlink_to(made / "nowhere")
    (made / "loop").symlink_to(made / "loop")
    monkeypatch.chdir(made)
    return made


def check(command: Command, folder: Path, *more: str) -> None:
    done = CliRunner().invoke(app, command.line(folder, *more))
    assert ended_well(done), (command.path, more, repr(done.exception))


@pytest.mark.parametrize("variable", ["MEMAGENT_HOME", "MEMAGENT_MODELS"])
@pytest.mark.parametrize("place", PLACES)
def test_a_home_that_is_no_folder_ends_well(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: str, variable: str
) -> None:
    monkeypatch.setenv(variable, PLACES[place](folder))
    for command in commands():
        check(command, folder)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("of nobody", "there is no such home folder"),
        ("a file", "it is not a folder"),
        ("a link to nothing", "it is a link to nothing"),
        ("a link to itself", "it is a link to nothing"),
        ("a name too long", "File name too long"),
        ("a path too long", "File name too long"),
        ("not UTF-8", "it is not valid UTF-8"),
    ],
)
@pytest.mark.parametrize("variable", ["MEMAGENT_HOME", "MEMAGENT_MODELS"])
def test_why_it_is_no_folder_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: str, reason: str, variable: str
) -> None:
    monkeypatch.setenv(variable, PLACES[place](folder))
    with pytest.raises(SettingError) as caught:
        Home.from_environment()
    message = str(caught.value)
    assert message.startswith(f"{variable}={PLACES[place](folder):.200} cannot be used: {reason}.")
    assert message.endswith(f"Set {variable} to a folder by its full path.")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_current_folder_that_was_deleted_ends_well(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    line = command.line(tmp_path)
    for child in folder.iterdir():
        child.unlink()
    folder.rmdir()
    done = CliRunner().invoke(app, line)
    assert ended_well(done), repr(done.exception)
    assert "current folder" not in str(done.exception)  # nothing relative was asked for
    monkeypatch.setenv("MEMAGENT_HOME", "relative")
    done = CliRunner().invoke(app, line)
    assert ended_well(done), repr(done.exception)
    monkeypatch.setenv("MEMAGENT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MEMAGENT_MODELS", "relative")
    done = CliRunner().invoke(app, line)
    assert ended_well(done), repr(done.exception)


def test_a_relative_home_in_a_deleted_folder_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMAGENT_HOME", "relative")
    assert Home.from_environment().root == folder / "relative"
    for child in folder.iterdir():
        child.unlink()
    folder.rmdir()
    with pytest.raises(
        SettingError, match="MEMAGENT_HOME=relative .* current folder, which has been deleted"
    ):
        Home.from_environment()


def test_an_account_without_a_home_folder_is_told_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> object:
        raise KeyError(uid)

    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "MEMAGENT_HOME", "MEMAGENT_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SettingError, match="MEMAGENT_HOME is not set, and its default cannot be used: there is no such"
    ):
        Home.from_environment()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("variable", "option"), [("MEMAGENT_USER", "--user"), ("MEMAGENT_BACKEND", "--backend")]
)
@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_user_or_backend_in_the_environment_ends_well(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, option: str, name: str
) -> None:
    monkeypatch.setenv(variable, name)
    for command in commands():
        line = command.line(folder)
        if option in command.options and command.path[0] not in (
            "scenario",
            "bench",
        ):  # all of these takes seconds
            if option in line:  # it would hide the variable
                at = line.index(option)
                del line[at : at + 2]
            done = CliRunner().invoke(app, line)
            assert ended_well(done), (line, repr(done.exception))


@pytest.mark.parametrize("name", [name for name in ODD_NAMES if name])
def test_an_odd_model_in_the_environment_ends_well(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MEMAGENT_MODEL", name)
    done = CliRunner().invoke(app, ["chat", "--prompt", "hi", "--backend", "none"])
    assert isinstance(done.exception, MemagentError), repr(done.exception)
    monkeypatch.delenv("MEMAGENT_MODEL")
    monkeypatch.setenv("MEMAGENT_EMBEDDER", name)
    done = CliRunner().invoke(app, ["recall", "hi", "--backend", "rag"])
    assert isinstance(done.exception, NotFoundError | ModelError), repr(done.exception)


@pytest.mark.usefixtures("home")
def test_an_empty_variable_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEMAGENT_USER", "MEMAGENT_BACKEND"):
        monkeypatch.setenv(name, "")
    for line in (["sessions"], ["sessions", "list"], ["sessions", "show", "notes"]):
        done = CliRunner().invoke(app, line)
        assert (done.exit_code, "notes" in done.output or "Biscuit" in done.output) == (0, True)


@pytest.mark.parametrize("command", COMMANDS)
def test_arguments_that_are_not_utf8_end_well(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for option, kind in command.options.items():
        if kind is not bool:
            check(command, folder, option, NOT_UTF8)
    line = command.line(folder)
    if command.arguments:
        done = CliRunner().invoke(
            app, [*line[: -len(command.arguments)], *[NOT_UTF8] * len(command.arguments)]
        )
        assert ended_well(done), repr(done.exception)
