"""--embedder: on the command line, in the environment, in the settings file; and another one than before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memagent.agent.home import Home
from tests.cli.running import Done, Run, run

__all__ = ["run"]  # a fixture

SISTER, CAR = "My sister lives in Porto.", "The car is red."
QUESTION = "Wo wohnt meine Schwester?"  # shares no word with its answer
ALL = ("--set", "abstain=false", "--limit", "2", "--output", "json")
REBUILT = (
    "stored state of rag is not usable: its embedder is 'hashing+multilingual', now it is 'multilingual'"
)


@pytest.fixture(autouse=True)
def _default_memory(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAGENT_BACKEND", "rag")
    monkeypatch.setenv("MEMAGENT_MODEL", "echo")


def texts(done: Done) -> list[str]:
    assert done.exit_code == 0, done.stderr.decode()
    return [item["text"] for item in json.loads(done.stdout)]


def embedder_of(done: Done) -> str:
    assert done.exit_code == 0, done.stderr.decode()
    name: str = json.loads(done.stdout)["embedder"]
    return name


def remember_two(run: Run, *options: str) -> Done:
    done: Done = run("remember", "-", *options, stdin=f"{CAR}\n{SISTER}\n".encode())
    assert (done.exit_code, done.stdout) == (0, b"Remembered 2 statements as turns 1 to 2.\n")
    return done


# where it is named


def test_the_command_line_names_the_embedder(run: Run) -> None:
    remember_two(run, "--embedder", "multilingual")
    assert texts(run("recall", QUESTION, "--embedder", "multilingual", *ALL))[0] == SISTER
    assert (
        embedder_of(run("backends", "stats", "rag", "-o", "json", "--embedder", "multilingual"))
        == "multilingual"
    )


def test_several_embedders_are_used_as_one(run: Run) -> None:
    both = ("--embedder", "hashing+multilingual")
    remember_two(run, *both)
    assert texts(run("recall", QUESTION, *both, *ALL))[0] == SISTER
    assert embedder_of(run("backends", "stats", "rag", "-o", "json", *both)) == "hashing+multilingual"


def test_the_environment_names_the_embedder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAGENT_EMBEDDER", "multilingual")
    remember_two(run)
    assert texts(run("recall", QUESTION, *ALL))[0] == SISTER
    assert embedder_of(run("backends", "stats", "rag", "-o", "json")) == "multilingual"


def test_the_settings_file_names_the_embedder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMAGENT_EMBEDDER")
    assert run("config", "set", "embedder", "multilingual").exit_code == 0
    remember_two(run)
    assert texts(run("recall", QUESTION, *ALL))[0] == SISTER
    assert embedder_of(run("backends", "stats", "rag", "-o", "json")) == "multilingual"


def test_the_command_line_wins_over_the_environment_and_the_environment_over_the_file(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("config", "set", "embedder", "multilingual")
    run("remember", CAR, "--backend", "none")
    stats = ("backends", "stats", "rag", "-o", "json")
    assert embedder_of(run(*stats)) == "hashing+multilingual"  # of the environment, joined
    assert embedder_of(run(*stats, "--embedder", "multilingual+hashing")) == "multilingual+hashing"
    assert embedder_of(run(*stats)) == "hashing+multilingual"  # the option held for one command
    monkeypatch.delenv("MEMAGENT_EMBEDDER")
    assert embedder_of(run(*stats)) == "multilingual"


# what is refused


@pytest.mark.parametrize(
    "command", [["remember", SISTER], ["recall", QUESTION], ["backends", "rebuild", "rag"]]
)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "multilingul",
            b"There is no embedder 'multilingul'. Did you mean multilingual? The folder of a sentence",
        ),
        ("hashing+multilingul", b"There is no embedder 'multilingul'. Did you mean multilingual?"),
        ("smollm2-135m", b"There is no embedder 'smollm2-135m'. Known: all-minilm-l6-v2"),
        ("hashing+hashing", b"The embedder hashing+hashing names hashing twice; name each once."),
    ],
)
def test_an_unknown_embedder_is_refused_before_anything_is_stored(
    run: Run, home: Home, monkeypatch: pytest.MonkeyPatch, command: list[str], name: str, message: bytes
) -> None:
    by_option = run(*command, "--embedder", name)
    monkeypatch.setenv("MEMAGENT_EMBEDDER", name)
    for done in (by_option, run(*command)):
        assert (done.exit_code, done.stdout) == (1, b"")
        assert done.stderr.startswith(b"Error: " + message)
    assert not home.root.exists()


def test_the_settings_file_takes_no_unknown_embedder(run: Run) -> None:
    done = run("config", "set", "embedder", "multilingul")
    assert done.exit_code == 1
    assert b"Did you mean multilingual?" in done.stderr
    assert run("config", "set", "embedder", "hashing+multilingual").exit_code == 0


def test_help_is_shown_whatever_the_environment_says(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAGENT_EMBEDDER", "nosuch")
    done = run("recall", "--help")
    assert done.exit_code == 0
    assert b"--embedder" in done.stdout


# another embedder than before


@pytest.fixture
def stored(run: Run) -> None:
    """A memory of 80 turns that is stored with the embedder ``hashing``."""
    lines = [f"In year {1900 + number} I counted {number * 37 % 101} trains." for number in range(78)]
    done = run("remember", "-", stdin="\n".join([*lines, CAR, SISTER]).encode())
    assert (done.exit_code, done.stderr) == (0, b"")
    assert run("recall", SISTER).stderr == b""  # loaded, not rebuilt


@pytest.mark.usefixtures("stored")
def test_another_embedder_rebuilds_a_stored_memory_and_says_so(run: Run) -> None:
    done = run("remember", "The bridge is closed.", "--embedder", "multilingual")
    assert done.exit_code == 0
    assert REBUILT in done.stderr.decode()
    assert b"It is being rebuilt from the journal (81 turns)." in done.stderr
    after = run("recall", QUESTION, "--embedder", "multilingual", *ALL)
    assert (texts(after)[0], after.stderr) == (SISTER, b"")  # the new state is stored


@pytest.mark.usefixtures("stored")
def test_rebuilding_with_another_embedder_stores_the_new_state(run: Run) -> None:
    assert run("backends", "rebuild", "rag", "--embedder", "multilingual").exit_code == 0
    after = run("recall", QUESTION, "--embedder", "multilingual", *ALL)
    assert (texts(after)[0], after.stderr) == (SISTER, b"")


@pytest.mark.usefixtures("stored")
def test_recalling_with_another_embedder_says_so_and_leaves_what_is_stored(run: Run) -> None:
    done = run("recall", QUESTION, "--embedder", "multilingual", *ALL)
    assert texts(done)[0] == SISTER
    assert REBUILT in done.stderr.decode()
    assert run("recall", SISTER).stderr == b""


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("name", ["FOLDER", "someone/nosuch"])
def test_an_embedder_that_cannot_be_loaded_leaves_what_is_stored(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("memagent.agent.models.hub.hub_answers", lambda: False)
    (tmp_path / "empty").mkdir()
    name = name.replace("FOLDER", str(tmp_path / "empty"))
    done = run("remember", "The bridge is closed.", "--embedder", name)
    assert b"The journal has the turns; the memory reads them before its next recall." in done.stderr
    assert b"rebuilt" not in done.stderr
    assert run("recall", SISTER).stderr == b""
