"""The way out: streams that fail or are closed, questions, JSON."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from memagent.agent.fields import escape_json, json_text
from memagent.backends.errors import InputError
from memagent.backends.shared.text import UNSAFE
from memagent.cli.rendering import output, progress
from memagent.cli.rendering.console import Console

PROGRAM = Path(sys.executable).with_name("memagent")
TEXT = st.text(st.characters() | st.sampled_from('\x1b\x9b\x7f\x07\u202e\u2066\u2028\n\t\\"\ud800'))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)


def has_pair(text: str) -> bool:
    """Whether two halves of a surrogate pair stand side by side, which JSON cannot tell from the character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").count("\ufffd") != sum(
        0xD800 <= ord(char) < 0xE000 for char in text
    )


@given(VALUES, st.sampled_from([None, 2]))
def test_json_is_safe_to_print_and_parses_to_the_same_value(value: object, indent: int | None) -> None:
    text = json_text(value, indent=indent)
    assert not UNSAFE.search(text)
    text.encode()
    parsed = json.loads(text)
    assert json_text(parsed) == json_text(value)
    if not has_pair(repr(value)):
        assert parsed == value
    assert escape_json(text) == text


def test_other_characters_stand_in_json_as_they_are() -> None:
    assert json_text({"é": "東京 😀 \u200f\u200d"}) == '{"é": "東京 😀 \u200f\u200d"}'
    assert json_text("\x7f\x9b\u202e\ud800") == r'"\u007f\u009b\u202e\ud800"'


@given(TEXT)
def test_further_lines_are_indented(text: str) -> None:
    lines = output.indented(text, 3).split("\n")
    assert [lines[0], *(line.removeprefix("   ") for line in lines[1:])] == output.printable(text).split("\n")
    assert all(line.startswith("   ") for line in lines[1:])


# questions


@pytest.mark.parametrize(
    ("answer", "yes"), [("y", True), ("YES ", True), ("n", False), ("", False), ("yo", False)]
)
def test_only_yes_is_yes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, yes: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{answer}\n".encode())))
    assert output.confirm("Forget \x1b[2J\nnothing?") is yes
    assert capsys.readouterr() == ("", "Forget ·[2J nothing? [y/N]: ")


@pytest.mark.parametrize(("answer", "error"), [(b"", typer.Abort), (b"caf\xe9\n", InputError)])
def test_an_answer_that_is_none_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, error: type[Exception]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(answer)))
    with pytest.raises(error):
        output.confirm("Forget this?")


def test_the_label_of_a_bar_is_one_harmless_line(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(progress, "_console", lambda: Console(file=file, force_terminal=True, width=100))
    label = "[red]\x1b]0;t\x07\u202e\nnext"
    assert list(progress.track([1, 2], total=2, label=label)) == [1, 2]
    progress.bytes_reporter()(1, 1, label)
    assert file.getvalue().count("[red]·]0;t·· next") >= 2
    assert "\u202e" not in file.getvalue()
    assert "\x1b]" not in file.getvalue()


# streams

pytestmark = pytest.mark.usefixtures("home")
LISTS = [["models", "list"], ["models", "list", "-o", "json"], ["backends", "show", "none"], ["--help"]]


def ends(command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in which $m is the program."""
    return subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "m": str(PROGRAM)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", LISTS, ids=" ".join)
def test_a_reader_that_has_gone_ends_the_command_with_141_and_no_word(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([PROGRAM, *arguments], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the machine has no /dev/full")
@pytest.mark.parametrize("arguments", LISTS, ids=" ".join)
def test_an_output_that_cannot_be_written_is_an_error_of_one_line(arguments: list[str]) -> None:
    done = ends(f"$m {' '.join(arguments)} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "Error: The output cannot be written: No space left on device.\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the machine has no /dev/full")
def test_a_notice_that_cannot_be_written_changes_nothing() -> None:
    ends("$m remember 'My dog is called Biscuit.' -b none")
    done = ends("$m forget --seq 1 -b none 2>/dev/full <<.\ny\n.")
    assert (done.returncode, done.stdout) == (0, "Forgot 1 turn.\n")


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_fault_and_no_other_file_takes_its_place(tmp_path: Path, closed: str) -> None:
    done = ends(f"$m remember 'My dog is called Biscuit.' -b none {closed}")
    assert (done.returncode, done.stderr) == (0, "")
    assert ends(f"$m sessions show notes {closed}").returncode == 0
    assert "Biscuit" in ends("$m sessions show notes").stdout
    assert "Remembered" not in "".join(
        path.read_text(errors="replace") for path in (tmp_path / "home").rglob("*") if path.is_file()
    )


def test_a_question_to_nobody_is_answered_with_no() -> None:
    ends("$m remember 'My dog is called Biscuit.' -b none")
    done = ends("$m forget --seq 1 -b none <&-")
    assert done.returncode == 1
    assert done.stderr.endswith("\nAborted.\n")
    assert "Biscuit" in ends("$m sessions show notes").stdout


@pytest.mark.parametrize(("locale", "encoding"), [("C", "ascii:strict"), ("C.UTF-8", "latin-1")])
def test_any_text_comes_out_in_any_locale(
    monkeypatch: pytest.MonkeyPatch, locale: str, encoding: str
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    ends("$m remember 'Köln 東京 😀' -b none")
    done = subprocess.run([PROGRAM, "sessions", "show", "notes"], capture_output=True, check=False)
    assert "Köln 東京 😀" in done.stdout.decode()
    done = subprocess.run(
        [PROGRAM, "scenario", "check", b"K\xc3\xb6ln \xe9 \xe2\x80\xae"], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert "There is no file K" in done.stderr.decode()


def test_no_arguments_show_the_help_once_and_exit_with_2() -> None:
    done = ends("$m")
    assert (done.returncode, done.stdout.count("Usage: memagent"), done.stderr) == (2, 1, "")


def test_a_usage_error_names_usage_help_and_what_is_wrong() -> None:
    done = ends("$m recall x --limit 0")
    first, second, third = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert first.startswith("Usage: memagent recall")
    assert second == "Try 'memagent recall -h' for help."
    assert third.startswith("Error: Invalid value for '--limit'")
