"""correct, pin and unpin."""

from __future__ import annotations

import json

import pytest

from memagent.agent.home import Home
from memagent.backends.errors import InputError, NotFoundError
from tests.cli.commands.remembering import FACT, QUESTION, files_holding, memagent, recalled, stored_turns

pytestmark = pytest.mark.usefixtures("home", "echo_and_words")
WRONG = "My dog is called Basket."


def test_a_turn_is_corrected_everywhere(home: Home) -> None:
    memagent("remember", WRONG)
    done = memagent("correct", "1", FACT, "--yes")
    assert (done.exit_code, done.stdout) == (0, "Turn 2 takes the place of turn 1.\n")
    assert stored_turns(home) == [f"2 notes/user: {FACT}"]
    assert recalled(QUESTION) == [FACT]
    assert files_holding(home, "Basket") == []


def test_a_correction_is_confirmed_first(home: Home) -> None:
    memagent("remember", WRONG)
    assert memagent("correct", "1", FACT).exit_code != 0  # nobody is there to confirm it
    assert stored_turns(home) == [f"1 notes/user: {WRONG}"]


def test_correct_says_as_json_what_it_did() -> None:
    memagent("remember", WRONG)
    done = memagent("correct", "1", FACT, "-y", "-o", "json")
    assert json.loads(done.stdout) == {
        "user": "default",
        "seq": 2,
        "replies": [],
        "discarded": [],
        "remaining": [],
    }


def test_the_text_may_come_from_standard_input_and_blank_ones_are_refused_first(home: Home) -> None:
    memagent("remember", WRONG)
    assert isinstance(memagent("correct", "1", " ").exception, InputError)
    assert memagent("correct", "1", "-", "-y", stdin=f"  {FACT}\n".encode()).exit_code == 0
    assert stored_turns(home) == [f"2 notes/user: {FACT}"]


def test_pins_are_shown_and_taken_back() -> None:
    memagent("remember", FACT)
    assert memagent("pin").stdout == "Nothing is pinned.\n"
    assert FACT in memagent("pin", "1").stdout
    assert [turn["seq"] for turn in json.loads(memagent("pin", "--output", "json").stdout)] == [1]
    assert memagent("unpin", "1").stdout == "Nothing is pinned.\n"


@pytest.mark.parametrize("arguments", [("correct", "7", FACT, "-y"), ("pin", "1", "7"), ("unpin", "7")])
def test_a_number_that_no_turn_has_is_named(arguments: tuple[str, ...], home: Home) -> None:
    memagent("remember", WRONG)
    done = memagent(*arguments)
    assert isinstance(done.exception, InputError)
    assert "There is no turn 7." in str(done.exception)
    assert stored_turns(home) == [f"1 notes/user: {WRONG}"]
    assert memagent("pin").stdout == "Nothing is pinned.\n"


@pytest.mark.parametrize("arguments", [("correct", "1", FACT, "-y"), ("pin",), ("unpin", "1")])
def test_an_unknown_user_is_refused(arguments: tuple[str, ...], home: Home) -> None:
    assert isinstance(memagent(*arguments, "--user", "eva").exception, NotFoundError)
    assert not home.root.exists()
