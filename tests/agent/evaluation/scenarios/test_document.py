"""Any bytes are a document or an InputError with file and line, within bounds of time and memory."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path

import pytest

from memagent.agent.evaluation.scenarios import document, read, read_all
from memagent.agent.evaluation.scenarios.document import MAX_BYTES, MAX_DEPTH, MAX_VALUES
from memagent.backends.errors import InputError

STEPS = "steps: [{ask: q, expect: {nothing: true}}]\n"
GOOD = f"name: x\n{STEPS}"
A_HANG = 60.0
"""Seconds: far more than is needed on a busy machine, far less than these files take without bounds."""


def refusal(file: Path) -> str:
    """What is said of a file, without its name."""
    with pytest.raises(InputError) as caught:
        read(file)
    return str(caught.value).replace(str(file), "FILE")


def bomb(template: str) -> str:
    """Twelve mappings or lists, each of nine aliases of the one before: 9**12 values in 600 bytes."""
    lines = ["a: &l0 {x: y}"]
    for level in range(1, 13):
        aliases = ",".join([f"*l{level - 1}"] * 9)
        lines.append(f"f{level}: &l{level} {template.format(aliases)}")
    return "\n".join(["name: x", *lines, STEPS])


# aliases


@pytest.mark.parametrize("template", ["[{}]", "{{<<: [{}]}}", "{{y: [{}]}}"])
def test_an_alias_counts_as_what_it_stands_for(tmp_path: Path, template: str) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_text(bomb(template), encoding="utf-8")
    tracemalloc.start()
    began = time.monotonic()
    said = refusal(file)
    seconds, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said == f"FILE:7: more than {MAX_VALUES:,} values, aliases expanded; split the file into several."
    assert seconds < A_HANG
    assert peak < 50_000_000


def test_an_alias_of_a_long_text_counts_its_characters(tmp_path: Path) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_text(f"name: x\nabout: &a {'x' * 1000}\ntags: [{'*a,' * 1100}]\n{STEPS}", encoding="utf-8")
    assert refusal(file).startswith(f"FILE:3: more than {MAX_BYTES:,} characters, aliases expanded")


def test_aliases_are_counted_over_all_documents_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.recall.yaml"
    one = f"tags: [&a {'x' * 400}, {'*a,' * 1000}]\n{STEPS}---\n"
    file.write_text("".join(f"name: x{number}\n{one}" for number in range(3)), encoding="utf-8")
    assert refusal(file).startswith("FILE:10: more than")


def test_the_depth_of_an_alias_counts(tmp_path: Path) -> None:
    file = tmp_path / "a.recall.yaml"
    half = MAX_DEPTH // 2 + 1
    file.write_text(f"a: &a {'[' * half}{']' * half}\nb: {'[' * half}*a{']' * half}\n", encoding="utf-8")
    assert refusal(file) == f"FILE:2: nested too deeply; {MAX_DEPTH} levels at most."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\ntags: &t [*t]\n", "FILE:2: the alias 't' holds itself."),
        ("name: x\ntags: &t {a: [*t]}\n", "FILE:2: the alias 't' holds itself."),
        ("a: &t x\nb: &t y\n", "FILE:2: the anchor 't' stands here a second time."),
        (f"name: &t x\n{STEPS}---\nb: *t\n", "FILE:4: not YAML: found undefined alias 't'."),
    ],
)
def test_a_wrong_alias_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_text(text, encoding="utf-8")
    assert refusal(file) == said


# size and depth


@pytest.mark.parametrize("opening", ["[", "{", "- ", "? ", "[{", "- ? "])
def test_nesting_is_refused_before_it_costs_time(tmp_path: Path, opening: str) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_text(f"\n{opening * 100_000}", encoding="utf-8")
    began = time.monotonic()
    assert refusal(file) == f"FILE:2: nested too deeply; {MAX_DEPTH} levels at most."
    assert time.monotonic() - began < A_HANG


def test_the_longest_file_is_read_and_a_longer_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_text(GOOD + "#" * (MAX_BYTES - len(GOOD)), encoding="utf-8")
    assert [one.scenario.name for one in read(file)] == ["x"]
    file.write_text(GOOD + "#" * (MAX_BYTES - len(GOOD) + 1), encoding="utf-8")
    assert refusal(file) == f"FILE has more than {MAX_BYTES:,} bytes; split it into several files."


@pytest.mark.parametrize(
    ("head", "line", "at"), [("name: x\nsteps:\n", "- a\n", 98), ("", "- a\n", 100), ("", "---\n", 102)]
)
def test_a_file_of_too_many_values_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, line: str, at: int
) -> None:
    monkeypatch.setattr(document, "MAX_VALUES", 100)
    file = tmp_path / "a.recall.yaml"
    file.write_text(head + line * 200, encoding="utf-8")
    assert refusal(file) == f"FILE:{at}: more than 100 values, aliases expanded; split the file into several."


@pytest.mark.parametrize(
    "text", [f"name: x\n{'k' * 900_000}: 1", f"name: x\n? {'k' * 900_000}\n: 1\n", f"name: {'k' * 900_000}\n"]
)
def test_a_message_does_not_repeat_a_megabyte(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_text(text, encoding="utf-8")
    assert len(refusal(file)) < 1000


# text


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"name: x\nabout: caf\xe9\n", "FILE:2: not valid UTF-8 (byte 18 of the file). Save it as UTF-8."),
        (
            b"name: x\nabout: \xed\xa0\x80\n",
            "FILE:2: not valid UTF-8 (byte 15 of the file). Save it as UTF-8.",
        ),
        (
            GOOD.encode("utf-16"),
            "FILE:1: not valid UTF-8 (byte 0 of the file). It seems to be UTF-16. Save it as UTF-8.",
        ),
        (b'name: x\nabout: "\\ud800"\n', "FILE:2: U+D800 is half of a character: no text can hold it."),
        (b'name: x\n"\\udfff": y\n', "FILE:2: U+DFFF is half of a character: no text can hold it."),
    ],
)
def test_what_is_not_unicode_is_named_with_its_line(tmp_path: Path, raw: bytes, said: str) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_bytes(raw)
    assert refusal(file) == said


@pytest.mark.parametrize("escape", ["\\U99999999", "\\U00110000", "\\UFFFFFFFF", "\\xZZ", "\\u12"])
def test_an_escape_that_is_no_character_is_named_with_its_line(tmp_path: Path, escape: str) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_text(f'name: x\nabout: "{escape}"\n', encoding="utf-8")
    assert refusal(file).startswith("FILE:2: not YAML: ")


def test_a_version_of_five_thousand_digits_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.recall.yaml"
    file.write_text(f"%YAML 1.{'9' * 5000}\n---\n{GOOD}", encoding="utf-8")
    assert refusal(file).startswith("FILE:1: not YAML: ")


# files


def test_a_fifo_a_device_and_a_folder_are_not_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "a.recall.yaml"
    os.mkfifo(fifo)
    assert refusal(fifo) == "FILE is not a regular file; expected a scenario file in YAML."
    zero = tmp_path / "b.recall.yaml"
    zero.symlink_to("/dev/zero")
    assert refusal(zero) == "FILE is not a regular file; expected a scenario file in YAML."
    assert refusal(tmp_path) == "FILE is a folder; expected a scenario file in YAML."


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "file/inside", "dangling"])
def test_a_path_that_nothing_can_have_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text(GOOD)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError):
        read_all([tmp_path / name])
